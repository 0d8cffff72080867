# SPDX-License-Identifier: Apache-2.0
"""Graphical applications: windows of programs that run on hosts."""
