# SPDX-License-Identifier: Apache-2.0
"""A medium with a new version for this thin client: checked, and written to a removable disk.

The medium starts a live system of the new version, which runs from memory. There, `tower setup --upgrade`
puts it in place of the installed one.
"""

from __future__ import annotations

from tower.base.version import OS_RELEASE, read_os_release
from tower.base.view import View
from tower.disk.flash import flash
from tower.disk.receipt import Target
from tower.disk.target import open_target
from tower.image.source import ImageSource


def installed_version() -> str:
    """The version of this system; empty on one that is no TowerOS."""
    system = read_os_release(OS_RELEASE)
    return system.get("VERSION_ID", "") if system.get("ID") == "toweros" else ""


def write(new: ImageSource, target: Target, view: View) -> None:
    """Write the medium and read it back. Raises ImageProblemError or DeviceError; after that, do it again."""
    with open_target(target, new.path) as medium, view.bar("writing and reading back", new.block_map.mapped) as advance:
        flash(new.path, new.block_map, medium, advance=advance)


def next_steps(target: Target) -> str:
    """What the owner does with the medium."""
    return f"restart, start from {target.path}, log in as root, and type: tower setup --upgrade"
