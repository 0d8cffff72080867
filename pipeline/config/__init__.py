# SPDX-License-Identifier: Apache-2.0
"""Typed readers of the TOML files that people write: channels, stages and recipes."""
