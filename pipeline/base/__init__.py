# SPDX-License-Identifier: Apache-2.0
"""What every other part of the factory stands on: errors, paths, digests, files, processes."""
