# SPDX-License-Identifier: Apache-2.0
"""Which hosts there are, and what each of them was told about itself."""
