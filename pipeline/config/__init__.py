# SPDX-License-Identifier: Apache-2.0
"""What people write: TOML files of channels, stages and recipes, read with types."""
