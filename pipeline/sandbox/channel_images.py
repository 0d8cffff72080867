# SPDX-License-Identifier: Apache-2.0
"""Images that a channel makes in the container engine: the builder, and the root that makes it.

An image is made if the engine does not have it, and replaces the previous one of the same channel and architecture.
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
"""The most IDs that are noted for one key: engines give different ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """The images that this user's builds imported into engines: notes in `folder`, shared by all checkouts of the user.

    Tags and labels can be given to any image; the ID is the digest of its content.
    """

    folder: Path
    report: Callable[[str], None]

    def _note(self, kind: str, key: Digest) -> Path:
        return self.folder / f"{kind}-{key}.json"

    def ids(self, kind: str, key: Digest) -> list[str]:
        """Return the IDs of a key's image in the engines where it was imported, the last one first."""
        try:
            found = parse_json(read_regular(self._note(kind, key)))["images"]
            return [str(image) for image in found]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, kind: str, key: Digest, image: str) -> None:
        """Note an imported image. Raises StoreError."""
        note = self._note(kind, key)
        with locked(self.folder / "guard"):
            ids: list[JsonValue] = [image, *(one for one in self.ids(kind, key) if one != image)]
            write_file(note, canonical_json({"images": ids[:_ENGINES]}))


def ensure_image(
    engine: Engine, kind: str, key: Digest, *, channel: str, arch: str, known: Known, make: Callable[[], Path]
) -> str:
    """Return the ID of the image of this `kind` (`builder`) and `key`; if the engine lacks it, `make` writes its root as a tar.

    An image with this name that no build of this user imported for this key is not used.
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
            known.report(f"image {tag}: is {found['Id']}, not the one that was made; it is made again")
    of = f"{channel}/{arch}"
    with open_regular(make()) as stream:
        image = engine.import_image(_pieces(stream), tag, labels={label: key, place: of}, architecture=arch)
    known.add(kind, key, image)
    engine.remove_images(f"{place}={of}", keep=[tag])
    return image


def image_tag(kind: str, channel: str, key: Digest) -> str:
    """Return the name of a key's image in the engine."""
    return f"{LOCAL_IMAGES}tower-{kind}-{channel}:{key[:16]}"


def ensure_builder(
    engine: Engine, key: Digest, *, channel: str, arch: str, known: Known, scratch: Path, make: Callable[[Path, Path], None]
) -> str:
    """Return the ID of the builder's image; make it if the engine does not have it.

    `make(tar, folder)` writes the builder's root as a tar, with a work folder below `scratch`. The caller must let nobody
    else use `scratch`.
    """
    with ExitStack() as stack:

        def root() -> Path:
            remove_tree(scratch)  # the leftovers of a killed run, with the file systems that it mounted there
            scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
            make(folder / "builder.tar", folder)
            return folder / "builder.tar"

        return ensure_image(engine, "builder", key, channel=channel, arch=arch, known=known, make=root)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_CHUNK):
        yield piece
