# SPDX-License-Identifier: Apache-2.0
"""Disks: which ones may be written, and how an image becomes a host's disk."""
