# SPDX-License-Identifier: Apache-2.0
"""Installing packages on hosts, with or without the Internet."""
