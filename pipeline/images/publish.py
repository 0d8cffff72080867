# SPDX-License-Identifier: Apache-2.0
"""The last step: finished images get their names and their place, each with manifest, block map and checksums.

The place is the first of ./dist, ./builds and the cache's builds/ that exists; if none does, the last one is made. Several
checkouts may use the same place: another checkout's complete set stays, and ours goes into a folder of its own. Files are
copied, never linked, so that editing an image there does not change the store; an edited one is noticed and written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, digest_bytes
from pipeline.base.errors import StageError, StoreError
from pipeline.base.files import disk_full, is_full
from pipeline.base.paths import Paths
from pipeline.images.imageset import ENDINGS, Note, SetFile, Spot, changing, damaged_in, lay, owner_of, read_note, remove
from pipeline.images.manifest import ManifestInput, manifest_of
from pipeline.plan.nodes import Image, StageNode
from pipeline.store.artifact import Artifact, FileRecord

__all__ = ["ENDINGS", "BuiltImage", "Destination", "dist_folder", "find_published", "publish", "withdraw"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the finished images of a checkout go; `report` takes lines about them for the user."""

    paths: Paths
    report: Callable[[str], None]

    @property
    def checkout(self) -> Path:
        """The checkout whose images these are, without symbolic links."""
        return self.paths.checkout.resolve()

    def main(self, image: Image) -> Spot:
        """Return the usual place of an image."""
        return Spot(dist_folder(self.paths), image.output)

    def own(self, main: Spot) -> Spot:
        """Return the image's place if another checkout's image is in the usual one."""
        return Spot(main.folder / f"{self.checkout.name}-{digest_bytes(bytes(self.checkout))[:8]}", main.image)


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image whose last stage is built, but which need not be in its place yet."""

    image: Image
    artifact: Artifact
    """Of the last stage."""
    output: str
    """The file of the artifact that is the image."""
    made_of: Digest
    """What the manifest depends on (`manifest.made_of`)."""


@dataclass(frozen=True, slots=True)
class Published:
    """A finished image in its place."""

    built: BuiltImage
    path: Path
    files: Mapping[str, Digest]
    """The contents of the image and of the files beside it, by name."""


def dist_folder(paths: Paths) -> Path:
    """Return the folder for finished images."""
    for folder in (paths.checkout / "dist", paths.checkout / "builds"):
        if folder.is_dir():
            return folder
    return paths.cache / "builds"


def image_of(node: StageNode, artifact: Artifact) -> str:
    """Return the output that is the image: the one that matches the first pattern of stage.toml's `outputs`.

    Raises StageError.
    """
    images = [name for name in artifact.outputs if fnmatchcase(name, node.spec.outputs[0]) and not name.endswith(".bmap")]
    if len(images) != 1:
        raise StageError(
            f"{node.name}: makes {', '.join(sorted(artifact.outputs))}, and not one image",
            hint=f"the image of a last stage is what fits {node.spec.outputs[0]!r}",
        )
    return images[0]


def block_map_of(artifact: Artifact, image: str) -> bytes:
    """Return the stage's block map, or one made from the image (a compressed image needs the stage's)."""
    for name in artifact.outputs:
        if name.endswith(".bmap"):
            return read_regular(artifact.file(name))
    from pipeline.images import blockmap

    return blockmap.dump(blockmap.read_image(artifact.file(image)))


def publish(to: Destination, built: BuiltImage, given: ManifestInput) -> Path:
    """Bring an image to its place; return its path there. Raises StageError, StoreError."""
    contents = _contents(built, given)
    main = to.main(built.image)
    try:
        main.folder.mkdir(parents=True, exist_ok=True)
        with changing(main, on_wait=_waiting(to, main)):
            place = partial(lay, contents=contents, checkout=to.checkout, key=built.artifact.key, made_of=built.made_of)
            return _place(to, main, contents, place)
    except OSError as error:
        if is_full(error):
            raise disk_full(main.folder, error) from error
        raise StoreError(
            f"{error.filename or main.folder}: {error.strerror}", hint="finished images must be writable for you"
        ) from error


def _waiting(to: Destination, main: Spot) -> Callable[[], None]:
    return partial(to.report, f"{main.path}: is being written by another build; waiting for it")


def _place(to: Destination, main: Spot, contents: Mapping[str, SetFile], place: Callable[[Spot], None]) -> Path:
    """Put the set into its place; return the path of its image."""
    owner, own = owner_of(main, to.checkout), to.own(main)
    if not owner:
        place(main)
        _withdraw(own)
        return main.path
    note = read_note(main)
    if note is not None and _same(note, contents) and not damaged_in(main, note):
        return main.path
    own.folder.mkdir(exist_ok=True)
    place(own)
    to.report(
        f"{main.path}: is of {owner}, and stays; that of this checkout is {own.path} "
        "(a folder dist/ in the checkout makes a place of its own for all)"
    )
    return own.path


def _same(note: Note, contents: Mapping[str, SetFile]) -> bool:
    return {name: row.sha256 for name, row in note.files.items()} == {
        name: content.record.sha256 for name, content in contents.items()
    }


def _contents(built: BuiltImage, given: ManifestInput) -> dict[str, SetFile]:
    """Return the files of the set."""
    name, artifact = built.image.output, built.artifact
    contents = {name: SetFile(artifact.outputs[built.output], artifact.file(built.output))}

    def add(ending: str, data: bytes) -> None:
        contents[f"{name}{ending}"] = SetFile(FileRecord(digest_bytes(data), len(data)), data)

    add(".bmap", block_map_of(artifact, built.output))
    manifest = manifest_of(given, {name: content.record for name, content in contents.items()})
    add(".manifest.json", (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    add(".sha256", "".join(f"{contents[name].record.sha256}  {name}\n" for name in sorted(contents)).encode())
    return contents


# --- is it there? -------------------------------------------------------------------------------------------


def place_of(to: Destination, image: Image) -> Path:
    """Return the path of this checkout's image, whether it exists or not."""
    main = to.main(image)
    return to.own(main).path if owner_of(main, to.checkout) else main.path


def find_published(to: Destination, built: BuiltImage) -> Published | None:
    """Return the image and its files, if they are in their place, unchanged, and made from the present keys."""
    wanted = (built.artifact.key, built.made_of, built.artifact.outputs[built.output].sha256)
    main = to.main(built.image)
    for spot in (main, to.own(main)):
        note = read_note(spot)
        if note is None or (note.key, note.made_of, note.files[built.image.output].sha256) != wanted:
            continue
        damaged = damaged_in(spot, note)
        if not damaged:
            return Published(built, spot.path, {name: row.sha256 for name, row in note.files.items()})
        to.report(f"{spot.folder / damaged}: is not as it was made; it is written again")
    return None


def withdraw(to: Destination, image: Image) -> None:
    """Remove an image and its files from its place; another checkout's stay."""
    main = to.main(image)
    if not main.folder.is_dir():
        return
    with changing(main, on_wait=_waiting(to, main)):
        if not owner_of(main, to.checkout):
            remove(main)
        _withdraw(to.own(main))


def _withdraw(own: Spot) -> None:
    if own.folder.is_dir():
        remove(own)
        with suppress(OSError):  # other images are there
            own.folder.rmdir()
