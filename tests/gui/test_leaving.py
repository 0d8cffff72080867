# SPDX-License-Identifier: Apache-2.0
"""Leaving the desktop while it still starts: nothing that it started stays."""

from __future__ import annotations

import pytest

from pipeline.light.machine import Box
from tests.gui.conftest import started


@pytest.mark.parametrize("last", ["swaybg", "waybar", "pipewire", "wireplumber", "pipewire-pulse"])
def test_a_desktop_that_is_left_while_it_starts_leaves_no_sound(thinclient: Box, last: str) -> None:
    """The programs for sound are started one after the other, some of them behind those of the desktop."""
    with started(thinclient) as desktop:
        desktop.wait_for(rf"^{last}\b(?!-)")
