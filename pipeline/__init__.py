# SPDX-License-Identifier: Apache-2.0
"""The image factory: decides what to build and whether it is built already.

Reads top to bottom as the flow: channel -> lock -> vault -> builder -> stages -> images -> boot.
"""
