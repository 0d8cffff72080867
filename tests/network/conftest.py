# SPDX-License-Identifier: Apache-2.0
"""The machines of the network ring: new ones for every file, so that none finds what another has done to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.light.shelf import Shelf
from tests.network.machines import Tower, missing_tools, roots, tower


@pytest.fixture(scope="session")
def on_shelf() -> Iterator[Shelf]:
    """The product's roots, built (or found built) by the real command, and unpacked for all machines of the run."""
    if missing := missing_tools():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    with roots() as made:
        yield made


@pytest.fixture(scope="module")
def machines(on_shelf: Shelf) -> Iterator[Tower]:
    """Six machines and an Internet, started, each with the rules of its role; a test sets the rules that it is about."""
    with tower(on_shelf) as made:
        yield made
