# SPDX-License-Identifier: Apache-2.0
"""Alpine's package format, version 2: archives, signatures, packages, indexes, versions, the installed database."""
