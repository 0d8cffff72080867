# SPDX-License-Identifier: Apache-2.0
"""`tower audit`: trying what the isolation of a Tower forbids.

In the order of its flow:

local       what can be seen on the thin client itself: files, ssh's settings, listeners, forwarding
probe.sh    what is sent to each host over ssh, and runs there: `hosts` sends it and reads what it says
rules       the rules that act on a machine, beside those that its role has
wire        frames, past our own firewall, to each host; and whatever hosts send to us (`frames` makes and reads them)
verdict     from all that, one check a line: held, broken or not tried
run         the flow; matrix shows it
"""
