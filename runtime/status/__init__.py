# SPDX-License-Identifier: Apache-2.0
"""How hosts are: status, clocks, power, Wi-Fi."""
