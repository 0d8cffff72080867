# SPDX-License-Identifier: Apache-2.0
"""The sandbox that stages run in, and the container engine behind it."""
