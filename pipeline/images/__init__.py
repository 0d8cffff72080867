# SPDX-License-Identifier: Apache-2.0
"""Finished images: publishing them, looking into them, auditing and booting them."""
