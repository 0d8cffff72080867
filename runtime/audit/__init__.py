# SPDX-License-Identifier: Apache-2.0
"""`tower audit`: try what the isolation of a Tower forbids.

In the order of the flow:

local       checks on the thin client itself: files, ssh's settings, listeners, forwarding
probe.sh    is sent to each host over ssh and runs there; `probe` sends it and parses its output
rules       the firewall's rules on a machine, compared with those of its role
packets     sends frames to each host, past our own firewall, and reads what hosts send us (`frames` builds and parses them)
verdict     turns all that into checks, one for each line: held, broken or not tried
flow        the flow; `matrix` shows the result
"""
