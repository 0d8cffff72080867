# SPDX-License-Identifier: Apache-2.0
"""The audit of finished images: programs find their libraries, and all privileged files and services were reviewed."""
