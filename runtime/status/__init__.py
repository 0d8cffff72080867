# SPDX-License-Identifier: Apache-2.0
"""The state of hosts: status, clocks, power, Wi-Fi."""
