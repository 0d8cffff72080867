# SPDX-License-Identifier: Apache-2.0
"""Provisioning: from a name to a host that answers."""
