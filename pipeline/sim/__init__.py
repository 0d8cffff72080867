# SPDX-License-Identifier: Apache-2.0
"""Towers of simulated machines, all on this machine, connected as in a home."""
