# SPDX-License-Identifier: Apache-2.0
"""Releases: what may become one, what it holds, how it is signed, and how anyone checks it with public keys alone."""
