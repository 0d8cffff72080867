# SPDX-License-Identifier: Apache-2.0
"""The base of every other part of `tower`: errors, processes, files, names, output."""
