# SPDX-License-Identifier: Apache-2.0
"""The thin client's own installation: from the live system onto an encrypted disk and a boot device."""
