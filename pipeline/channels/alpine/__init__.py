# SPDX-License-Identifier: Apache-2.0
"""Alpine as a channel, in the order of its flow: settings, indexes, packages, media, aports, lock, repository, builder.

Trust comes from the keys in keys/alpine/ (pipeline.supply.trust). `driver.AlpineDriver` answers what the factory asks for.
"""
