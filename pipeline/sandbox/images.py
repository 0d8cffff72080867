# SPDX-License-Identifier: Apache-2.0
"""Images in the container engine that a channel makes: the builder, and the root that makes it.

An image is made when the engine does not have it, and takes the place of the one that was made before for the same
channel and architecture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tower.base.jsontext import parse_json
from tower.base.regular import open_regular, read_regular

from pipeline.base.canonical import Digest, JsonValue, canonical_json
from pipeline.base.filelock import locked
from pipeline.base.files import write_file
from pipeline.base.scratch import remove_tree
from pipeline.sandbox.engine import LOCAL_IMAGES

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine

_CHUNK = 1 << 20
_ENGINES = 8
"""Ids that are noted for one key: engines give different ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """What this user's builds have put into engines: notes in `folder`, shared by all checkouts of the user.

    An image's tag and labels can be given to any other; its id is the digest of what it holds.
    """

    folder: Path
    report: Callable[[str], None]

    def _note(self, kind: str, key: Digest) -> Path:
        return self.folder / f"{kind}-{key}.json"

    def ids(self, kind: str, key: Digest) -> list[str]:
        """The ids that the image of a key got in the engines where it was imported, the last one first."""
        try:
            found = parse_json(read_regular(self._note(kind, key)))["images"]
            return [str(image) for image in found]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, kind: str, key: Digest, image: str) -> None:
        """Note one that was imported. Raises StoreError."""
        note = self._note(kind, key)
        with locked(self.folder / "guard"):
            ids: list[JsonValue] = [image, *(one for one in self.ids(kind, key) if one != image)]
            write_file(note, canonical_json({"images": ids[:_ENGINES]}))


def ensure_image(
    engine: Engine, kind: str, key: Digest, *, channel: str, arch: str, known: Known, make: Callable[[], Path]
) -> str:
    """The id of the image of this `kind` (`builder`) and `key`; `make` gives its root as a tar if the engine lacks it.

    One that bears the name, but was not imported for this key by builds of this user, is not used.
    Older images of the same kind, channel and architecture are removed.
    """
    label, place = f"tower.{kind}", f"tower.{kind}-of"
    tag = image_tag(kind, channel, key)
    found = engine.find_image(tag)
    if found is not None and (found.get("Config", {}).get("Labels") or {}).get(label) == key:
        ids = known.ids(kind, key)
        if found["Id"] in ids:
            return str(found["Id"])
        if ids:
            known.report(f"image {tag}: is {found['Id']}, not the one that was made; it is not used, and made again")
    of = f"{channel}/{arch}"
    with open_regular(make()) as stream:
        image = engine.import_image(_pieces(stream), tag, labels={label: key, place: of}, architecture=arch)
    known.add(kind, key, image)
    engine.remove_images(f"{place}={of}", keep=[tag])
    return image


def image_tag(kind: str, channel: str, key: Digest) -> str:
    """What the image of a key is called in the engine."""
    return f"{LOCAL_IMAGES}tower-{kind}-{channel}:{key[:16]}"


def ensure_builder(
    engine: Engine, key: Digest, *, channel: str, arch: str, known: Known, scratch: Path, make: Callable[[Path, Path], None]
) -> str:
    """The id of the builder's image, made if the engine does not have it.

    `make(tar, folder)` writes the builder's root as a tar, with a folder to work in, below `scratch`. The caller sees to
    it that nobody else works in `scratch`.
    """
    with ExitStack() as stack:

        def root() -> Path:
            remove_tree(scratch)  # what a killed run left, with the file systems it mounted there
            scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
            make(folder / "builder.tar", folder)
            return folder / "builder.tar"

        return ensure_image(engine, "builder", key, channel=channel, arch=arch, known=known, make=root)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_CHUNK):
        yield piece
