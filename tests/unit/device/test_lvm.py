# SPDX-License-Identifier: Apache-2.0
"""LVM's settings where no udev runs: the places that need them are apart from each other, and must say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INITRAMFS = ROOT / "stages/host-boot/lvm.conf"
_SETTING = re.compile(r"\b((?:verify_|obtain_)?[a-z_]*udev[a-z_]*) ?= ?([01])")


def settings(path: Path) -> dict[str, str]:
    """Every setting of LVM about udev in a file."""
    return dict(_SETTING.findall(path.read_text()))


@pytest.mark.parametrize("place", ["runtime/installer/disks.py", "overlays/host/usr/libexec/tower/encrypt"])
def test_settings_are_those_of_the_initramfs(place: str) -> None:
    """The installer and a host's first start set what the initramfs of an encrypted host has."""
    expected = settings(INITRAMFS)
    assert len(expected) == 4
    assert settings(ROOT / place) == expected
