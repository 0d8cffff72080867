# SPDX-License-Identifier: Apache-2.0
"""Images: where they are found, and whether they are what their makers signed."""
