# SPDX-License-Identifier: Apache-2.0
"""The audit of finished images: programs find what they need, and what is privileged or listens was reviewed."""
