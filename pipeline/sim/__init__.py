# SPDX-License-Identifier: Apache-2.0
"""Towers of pretended machines: all of them on this machine, connected as in a home."""
