# SPDX-License-Identifier: Apache-2.0
"""Light machines: the product's own roots, started in namespaces of this machine, in a second instead of a minute.

`roots` finds or makes the trees, `shelf` holds them, `machine` starts and drives one machine, `services` does in it what
an init system and a first start do, and `switches` connects machines. Nothing here knows what a Tower is.
"""
