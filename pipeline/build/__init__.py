# SPDX-License-Identifier: Apache-2.0
"""Building: how each node of the plan becomes an artifact of the store."""
