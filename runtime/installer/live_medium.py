# SPDX-License-Identifier: Apache-2.0
"""The medium that the live system runs from: where it is, and whether all that comes from it is what its makers laid there.

Its packages have signatures, which apk checks; the wheels of `tower` and the images of hosts have lists of checksums.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import ImageProblemError, PackageError, StateError
from tower.base.files import is_folder, read_file
from tower.base.refused import in_our_words
from tower.image.verify import SUMS, ImageError, check_sum, parse_sums
from tower.install.apkindex import INDEX, read_index
from tower.install.apkwords import says_verified

_MEDIA: Final = Path("/media")
_LINE: Final = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")
_AGAIN: Final = "the medium is damaged: write it again, and check the ISO with its .sha256"
_BATCH: Final = 8 << 20
"""Bytes of packages that one run of apk checks, for the progress between them."""
_SECONDS: Final = 1800
_SHOWN: Final = 3


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


def packages(medium: Path) -> list[Path]:
    """Return the packages of a medium."""
    return sorted((medium.parent / "apks").glob("*/*.apk"))


def check(medium: Path, advance: Callable[[int], object]) -> None:
    """Read all that an installation takes from the medium, and compare it with signatures and checksums.

    `advance` is told how many bytes of packages were read. Raises ImageProblemError: something is damaged, or missing.
    """
    indexes = sorted((medium.parent / "apks").glob(f"*/{INDEX}"))
    if not indexes:
        raise ImageProblemError(f"{medium.parent / 'apks'}: there is no {INDEX}", hint=_AGAIN)
    for index in indexes:
        _verify([index])
        try:
            named = {package.file_name for package in read_index(index).packages.values()}
        except PackageError as error:
            raise ImageProblemError(error.message, hint=_AGAIN) from error
        if missing := sorted(name for name in named if not (index.parent / name).is_file()):
            raise ImageProblemError(f"{index.parent}: there is no {', '.join(missing[:_SHOWN])}", hint=_AGAIN)
    for batch in _batches(packages(medium)):
        _verify(batch)
        advance(sum(path.stat().st_size for path in batch))
    check_wheels(medium / "wheels")
    try:
        folder = medium / "images"
        for name, digest in parse_sums(read_file(folder / SUMS, most=1 << 20), str(folder / SUMS)).items():
            check_sum(folder / name, digest)
    except (ImageError, StateError) as error:
        raise ImageProblemError(error.message, hint=_AGAIN) from error


def _batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    for path in paths:
        batch.append(path)
        if sum(one.stat().st_size for one in batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _verify(paths: list[Path]) -> None:
    """Let apk check files with the keys of this system. Raises ImageProblemError."""
    done = proc.run(("apk", "--no-network", "verify", "--", *paths), timeout=_SECONDS, check=False)
    if done.status != 0:
        lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip() and not says_verified(line)]
        raise ImageProblemError(f"packages of the medium: {'; '.join(said[:_SHOWN])}", hint=_AGAIN)


def check_wheels(folder: Path) -> list[Path]:
    """Return the listed wheels. Raises ImageProblemError if one is missing or damaged."""
    wanted = dict[str, tuple[str, str]]()
    try:
        text = read_file(folder / "requirements.txt", most=1 << 20).decode(errors="replace")
    except StateError as error:
        raise ImageProblemError(error.message, hint=_AGAIN) from error
    for line in text.split("\n"):
        if match := _LINE.fullmatch(line):
            wanted[match[3]] = (match[1], match[2])
    if "tower" not in {name for name, _ in wanted.values()}:
        raise ImageProblemError(f"{folder / 'requirements.txt'}: does not name tower", hint=_AGAIN)
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with in_our_words(wheel, kind=ImageProblemError, hint=_AGAIN), wheel.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # Its file has name and version in front, the name with _ for -.
        name, version = wanted.pop(digest, ("", ""))
        if not wheel.name.lower().replace("_", "-").startswith(f"{name}-{version}-".replace("_", "-")):
            raise ImageProblemError(f"{wheel}: is not what its list of checksums says", hint=_AGAIN)
    if wanted:
        raise ImageProblemError(f"{folder}: there is no {', '.join(sorted(map(' '.join, wanted.values())))}", hint=_AGAIN)
    return wheels


def unpack_wheels(folder: Path, target: Path) -> None:
    """Unpack all listed wheels into `target`. Raises ImageProblemError if one is missing or damaged."""
    wheels = check_wheels(folder)
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(target)
