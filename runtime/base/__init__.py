# SPDX-License-Identifier: Apache-2.0
"""What every other part of `tower` stands on: errors, processes, files, names, output."""
