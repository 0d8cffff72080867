# SPDX-License-Identifier: Apache-2.0
"""Upgrades of hosts and of the thin client."""
