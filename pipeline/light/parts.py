# SPDX-License-Identifier: Apache-2.0
"""The nodes of the plan that the roots of light machines are made from."""

from __future__ import annotations

from typing import Final

HOST: Final = "stage:host-system:pc"
"""The node whose output is the host's root."""
THINCLIENT: Final = {
    "/in/apkovl": "stage:apkovl",
    "/in/keys": "channel:keys",
    "/in/packages": "stage:repository-thinclient",
    "/in/repository": "channel:repository:x86_64",
    "/in/wheels": "stage:wheels",
}
"""The folder where the script finds the parts of the thin client's root."""
NEEDED: Final = (HOST, *THINCLIENT.values())
"""The nodes of the plan that must be built."""
