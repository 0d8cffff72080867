# SPDX-License-Identifier: Apache-2.0
"""The inputs of builds: locks, downloads, the vault, wheels, trusted keys."""
