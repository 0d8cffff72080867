# SPDX-License-Identifier: Apache-2.0
"""The solver: choose the packages for a world as apk itself does, and explain why there is no solution."""
