# SPDX-License-Identifier: Apache-2.0
"""Graphical applications of hosts in windows here, with their sound."""
