# SPDX-License-Identifier: Apache-2.0
"""New versions for hosts and for the thin client."""
