# SPDX-License-Identifier: Apache-2.0
"""The image for new hosts: where it is found, what its manifest says, and whether it may be trusted.

Images lie in the first of ./dist, ./builds and ~/.cache/tower/builds that exists. An image is accepted if its makers
signed it; without a signature, if it came with this very system, on the same medium; if it is of the same development
channel as this system; or if --unsigned allows it. Its checksum must match in any case.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tower.base.errors import ImageProblemError, StateError, TowerError, ValueRefusedError
from tower.base.files import is_file, is_folder, look, read_file
from tower.base.jsontext import parse_json
from tower.base.names import parse_branch
from tower.base.refused import home_folder, in_our_words
from tower.base.version import OS_RELEASE, read_os_release
from tower.image import blockmap
from tower.image.blockmap import BlockMap

TARGETS: Final = ("rpi", "pc")
ROOT: Final = 0
OWN_IMAGES: Final = Path("/etc/tower/images.sha256")
"""Checksums of the images on the medium that this system came from, in the form of `sha256sum`; the file is root's."""
_NAME: Final = re.compile(
    r"toweros-host-(?P<version>[0-9][0-9A-Za-z.+~_]*)-(?P<channel>[a-z0-9.-]+)-(?P<target>[a-z0-9]+)\.img(?:\.zst|\.xz)?"
)
_SUM: Final = re.compile(r"([0-9a-f]{64})  [^\s/]+")
_MEDIUM: Final = re.compile(
    r"toweros-thinclient-(?P<version>[0-9][0-9A-Za-z.+~_]*)-(?P<channel>[a-z0-9.-]+)-(?P<target>x86_64)\.iso"
)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of hosts, with the data of its manifest."""

    path: Path
    version: str
    channel: str
    branch: str
    releasable: bool
    sha256: str
    block_map: BlockMap

    def __str__(self) -> str:
        return f"{self.path.name} (version {self.version}, channel {self.channel})"


def builds_folder(home: Path | None = None) -> Path:
    """Return the folder where finished images are looked for."""
    for folder in (Path("dist"), Path("builds")):
        if is_folder(folder):
            return folder.absolute()
    return (home or home_folder()) / ".cache" / "tower" / "builds"


def find_image(folder: Path, target: str) -> Path:
    """Return the image of hosts for a target; the newest version if there are several. Raises ImageProblemError."""
    return _newest(folder, _NAME, target, f"image of hosts for {target}")


def find_medium(folder: Path) -> Path:
    """Return the thin client's medium; the newest version if there are several. Raises ImageProblemError."""
    return _newest(folder, _MEDIUM, "x86_64", "medium of the thin client")


def is_for(name: str, target: str) -> bool:
    """Tell whether a name is that of an image of hosts for a target."""
    match = _NAME.fullmatch(name)
    return match is not None and match["target"] == target


def is_image(name: str) -> bool:
    """Tell whether a name is that of an image for any target, or of a file that belongs to one."""
    return any(form.match(name) for form in (_NAME, _MEDIUM))


def _newest(folder: Path, form: re.Pattern[str], target: str, what: str) -> Path:
    found: list[tuple[tuple[Any, ...], Path]] = []
    with in_our_words(folder):
        paths = sorted(folder.iterdir()) if is_folder(folder) else []
    for path in paths:
        match = form.fullmatch(path.name)
        if match is not None and match["target"] == target:
            found.append((version_key(match["version"]), path))
    if not found:
        raise ImageProblemError(f"{folder}: there is no {what}", hint="give one with --image, or build it: ./ci/doit")
    newest = max(key for key, _ in found)
    best = [path for key, path in found if key == newest]
    if len(best) > 1:
        raise ImageProblemError(
            f"{folder}: there are {len(best)} images of that version: {', '.join(path.name for path in best)}",
            hint=f"choose one: --image {best[0]}",
        )
    return best[0]


def version_key(text: str) -> tuple[Any, ...]:
    """Return a key that sorts versions: numbers as numbers, letters before the end."""
    rows = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"[0-9]+|[A-Za-z]+", text)]
    return (*rows, (0, 1, ""))  # the end comes after letters: 1.0 is newer than 1.0rc1


def read_source(path: Path) -> ImageSource:
    """Read an image's manifest and block map, but not the image itself. Raises ImageProblemError."""
    if not is_file(path, ImageProblemError):
        raise ImageProblemError(
            f"{path}: no such image", hint="images are looked for in ./dist, ./builds and ~/.cache/tower/builds"
        )
    beside = {ending: path.with_name(path.name + ending) for ending in (".bmap", ".manifest.json")}
    for file in beside.values():
        if not is_file(file, ImageProblemError):
            raise ImageProblemError(f"{path}: there is no {file.name} beside it", hint="get the image with all files beside it")
    mapped = _read(beside[".bmap"], most=blockmap.MOST)
    block_map = blockmap.parse(mapped, str(beside[".bmap"]))
    where = beside[".manifest.json"]
    try:
        manifest = parse_json(_read(where, most=16 << 20))
        channel = manifest["channel"]
        name, branch, releasable = str(channel["name"]), parse_branch(channel["branch"]), channel["releasable"] is not False
        version, sha256 = str(manifest["version"]), str(manifest["files"][path.name]["sha256"])
        of_map = manifest["files"].get(beside[".bmap"].name, {}).get("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, ValueRefusedError) as error:
        raise ImageProblemError(
            f"{where}: is not the manifest of {path.name}: {error}", hint="take the image with its own files"
        ) from None
    if of_map is not None and hashlib.sha256(mapped).hexdigest() != of_map:
        raise ImageProblemError(
            f"{beside['.bmap']}: is not the block map that {where.name} names: they come from different builds",
            hint="take the image with its own files, or build it again: ./ci/doit",
        )
    return ImageSource(path, version, name, branch, releasable, sha256, block_map)


def _read(path: Path, *, most: int) -> bytes:
    """Read a file beside an image; a build may replace the image at any moment. Raises ImageProblemError."""
    try:
        return read_file(path, most=most)
    except StateError as error:
        raise ImageProblemError(error.message, hint="get the image with all files beside it") from error


def check_source(source: ImageSource, *, unsigned: bool) -> str:
    """Check the signature and checksum of an image; return a line with the result. Raises ImageProblemError."""
    from tower.image.minisign import SUFFIX, SignatureError
    from tower.image.verify import SUMS, sha256_of, trusted_keys, verify_image

    path = source.path
    got = sha256_of(path)
    if got != source.sha256:
        raise ImageProblemError(
            f"{path}: sha256 {got[:16]}, its manifest says {source.sha256[:16]}", hint="fetch or build the image again"
        )
    sums = path.with_name(SUMS)
    if any(look(one.with_name(one.name + SUFFIX), ImageProblemError) for one in (path, sums)):
        try:
            found = verify_image(path, trusted_keys())
        except SignatureError as error:
            raise ImageProblemError(str(error), hint="get the image from its makers again") from error
        said = found.release["version"], found.release["channel"]
        if said != (source.version, source.channel):
            # Otherwise an older image could be passed off as a newer one.
            raise ImageProblemError(
                f"{path}: is signed as version {said[0]}, channel {said[1]};"
                f" its manifest says {source.version}, {source.channel}",
                hint="get the image from its makers again",
            )
        return f"signed by {found.signer.name}"
    if source.sha256 in own_images():
        return "came with this system"
    own = read_os_release(OS_RELEASE).get("TOWER_CHANNEL", "")
    if not unsigned and (source.releasable or own != source.channel):
        raise ImageProblemError(
            f"{path}: is not signed by its makers",
            hint="use --unsigned only for images for development",
        )
    return f"not signed: from the development channel {source.channel}"


def own_images() -> frozenset[str]:
    """Return the checksums in OWN_IMAGES; empty unless the file is well-formed and only root can write it."""
    try:
        about = OWN_IMAGES.stat()
        if about.st_uid != ROOT or about.st_mode & 0o022:
            return frozenset()
        rows = [_SUM.fullmatch(line) for line in read_file(OWN_IMAGES, most=64 << 10).decode().splitlines()]
    except (OSError, UnicodeDecodeError, TowerError):
        return frozenset()
    return frozenset(row[1] for row in rows if row) if all(rows) else frozenset()
