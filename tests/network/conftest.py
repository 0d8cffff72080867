# SPDX-License-Identifier: Apache-2.0
"""The machines of the network ring: new ones for every file, so that none finds what another has done to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network.machines import Tower, missing_tools, tower


@pytest.fixture(scope="module")
def machines() -> Iterator[Tower]:
    """Six machines and an Internet, without rules; a test sets the rules that it is about."""
    if missing := missing_tools():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    with tower() as made:
        yield made
