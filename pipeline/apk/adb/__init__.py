# SPDX-License-Identifier: Apache-2.0
"""Alpine's package format, version 3 (ADB): containers of blocks, values, signatures, packages, indexes.

`pipeline.apk.format` reads files of either format, and calls this for those that begin with `ADB`.
"""
