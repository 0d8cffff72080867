# SPDX-License-Identifier: Apache-2.0
"""What windows and clipboard have in common: bytes between a host and a program here, and a client of X servers."""
