# SPDX-License-Identifier: Apache-2.0
"""What is copied on one machine and pasted on another, as the user's policy has it."""
