# SPDX-License-Identifier: Apache-2.0
"""The medium that the live system runs from: its folder, and the wheels of `tower`, which are checked against their list."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Final

from tower.base.errors import ImageProblemError, StateError
from tower.base.files import is_folder

_MEDIA: Final = Path("/media")
_LINE: Final = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")
_AGAIN: Final = "the medium is damaged: write it again, and check the ISO with its .sha256"


def find_medium(root: Path = _MEDIA) -> Path:
    """Return the folder `toweros` of the medium. Raises StateError if this is not the live system."""
    found = sorted(folder for folder in root.glob("*/toweros") if is_folder(folder / "wheels"))
    if not found:
        raise StateError("no medium of TowerOS is mounted under /media", hint="start this machine from the ISO, then run this")
    return found[0]


def check_live(mounts: str) -> None:
    """Raise StateError unless this is the live system, which runs from memory."""
    rows = [line.split(" ") for line in mounts.splitlines()]
    roots = [row[2] for row in rows if len(row) > 2 and row[1] == "/"]
    if not roots or roots[-1] not in ("tmpfs", "rootfs", "overlay"):
        raise StateError("this system runs from a disk: only the live system installs", hint="start this machine from the ISO")


def unpack_wheels(folder: Path, target: Path) -> None:
    """Unpack all listed wheels into `target`. Raises ImageProblemError if one is missing or damaged."""
    wanted = dict[str, str]()
    for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if match := _LINE.fullmatch(line):
            wanted[match[3]] = f"{match[1]} {match[2]}"
    if not any(name.startswith("tower ") for name in wanted.values()):
        raise ImageProblemError(f"{folder / 'requirements.txt'}: does not name tower", hint=_AGAIN)
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    for wheel in sorted(folder.glob("*.whl")):
        with wheel.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if wanted.pop(digest, None) is None:
                raise ImageProblemError(f"{wheel}: is not what its list of checksums says", hint=_AGAIN)
            with zipfile.ZipFile(stream) as packed:
                packed.extractall(target)
    if wanted:
        raise ImageProblemError(f"{folder}: there is no {', '.join(sorted(wanted.values()))}", hint=_AGAIN)
