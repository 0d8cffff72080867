# SPDX-License-Identifier: Apache-2.0
"""Graphical applications of hosts in the menu of the desktop."""
