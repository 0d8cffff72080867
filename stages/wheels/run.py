# SPDX-License-Identifier: Apache-2.0
"""Lay the wheels in one folder, with a requirements file that pins each by hash (`pip install --require-hashes`)."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

NAME = re.compile(r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[A-Za-z0-9._+!]+)(-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl")


def requirement(wheel: Path) -> str:
    """The line of the requirements file for one wheel."""
    found = NAME.fullmatch(wheel.name)
    if found is None:
        sys.exit(f"error: {wheel.name}: not the name of a wheel")
    name = re.sub(r"[-_.]+", "-", found["name"]).lower()
    return f"{name}=={found['version']} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def main() -> None:
    """Copy the wheels, write the list."""
    output = Path("/out")
    lines: dict[str, str] = {}
    for folder in (Path("/in/device"), Path("/in/tower")):
        for wheel in sorted(folder.glob("*.whl")):
            line = requirement(wheel)
            name = line.partition("==")[0]
            if name in lines:
                sys.exit(f"error: {wheel.name}: there is another wheel of {name}: {lines[name]}")
            lines[name] = line
            shutil.copyfile(wheel, output / wheel.name)
    missing = [folder for folder in ("device", "tower") if not any(Path("/in", folder).glob("*.whl"))]
    if missing:
        sys.exit(f"error: input {' and '.join(missing)}: there is no wheel")
    head = "# Everything that `tower` needs, to be installed from this folder alone:\n"
    head += "# pip install --no-index --find-links . --require-hashes -r requirements.txt\n"
    (output / "requirements.txt").write_text(head + "".join(f"{lines[name]}\n" for name in sorted(lines)))


main()
