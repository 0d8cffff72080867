# SPDX-License-Identifier: Apache-2.0
"""Images: finding them, and checking that they are what their makers signed."""
