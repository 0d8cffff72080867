# SPDX-License-Identifier: Apache-2.0
"""Disks: which may be written, and how an image becomes a host's disk."""
