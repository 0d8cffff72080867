# SPDX-License-Identifier: Apache-2.0
"""Releases: the checks before a release, its contents and signatures, and its verification with public keys alone."""
