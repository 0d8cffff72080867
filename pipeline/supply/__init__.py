# SPDX-License-Identifier: Apache-2.0
"""What builds are made from: locks, downloads, the vault, wheels, trusted keys."""
