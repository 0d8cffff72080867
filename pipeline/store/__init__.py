# SPDX-License-Identifier: Apache-2.0
"""The store: what has been built, by key."""
