# SPDX-License-Identifier: Apache-2.0
"""The hosts of a Tower, and the settings of each."""
