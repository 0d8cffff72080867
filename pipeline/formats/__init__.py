# SPDX-License-Identifier: Apache-2.0
"""Readers of archives and file systems that others made: strict, bounded, and nothing is mounted."""
