# SPDX-License-Identifier: Apache-2.0
"""Finished images: publish, inspect, audit and boot them."""
