# SPDX-License-Identifier: Apache-2.0
"""The plan of a build: every stage for every target in order, and the key of each."""
