# SPDX-License-Identifier: Apache-2.0
"""Packages, indexes, signatures, versions, the installed database: one interface to both formats, and the code of format 2."""
