# SPDX-License-Identifier: Apache-2.0
"""Connections to hosts: sessions, tunnels, commands in the foreground."""
