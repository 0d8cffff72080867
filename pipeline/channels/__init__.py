# SPDX-License-Identifier: Apache-2.0
"""Where packages come from: one file a channel, and the code that speaks to each kind."""
