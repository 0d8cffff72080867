# SPDX-License-Identifier: Apache-2.0
"""Leaving the desktop at different times after its start: nothing that it started stays."""

from __future__ import annotations

import time

import pytest

from pipeline.light.machine import Box
from tests.gui.conftest import started


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6, 1.0, 2.0])
def test_a_desktop_that_is_left_soon_after_its_start_leaves_no_sound(thinclient: Box, seconds: float) -> None:
    """The programs for sound are started one after the other, some of them behind those of the desktop."""
    with started(thinclient) as desktop:
        desktop.wait_for(r"^waybar\b")
        time.sleep(seconds)
