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
from typing import TYPE_CHECKING

from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_json
from pipeline.base.errors import StageError, StoreError
from pipeline.base.files import disk_full, is_full
from pipeline.base.paths import Paths
from pipeline.images.imageset import ENDINGS, Content, Note, Spot, changing, damaged_in, lay, owner_of, read_note, remove
from pipeline.images.manifest import SCHEMA, manifest_of
from pipeline.plan.nodes import Image, StageNode, is_folder
from pipeline.store.artifact import Artifact, FileRecord

if TYPE_CHECKING:
    from pipeline.build.factory import Factory

__all__ = ["ENDINGS", "dist_folder", "find_published", "publish", "withdraw"]


@dataclass(frozen=True, slots=True)
class Published:
    """A finished image in its place."""

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
    """Return the output that is the image: the one that matches the first pattern of stage.toml's `outputs`."""
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


def publish(factory: Factory, image: Image) -> Path:
    """Bring an image, whose last stage is built, to its place; return its path there."""
    node = factory.plan.nodes[image.final]
    artifact = factory.need(node).artifact
    assert isinstance(node, StageNode)  # noqa: S101  (the plan makes no other final node)
    contents = _contents(factory, image, artifact, image_of(node, artifact))
    main = _main(factory, image)
    try:
        main.folder.mkdir(parents=True, exist_ok=True)
        waiting = partial(factory.progress.say, f"{main.path}: is being written by another build; waiting for it")
        with changing(main, on_wait=waiting):
            place = partial(
                lay, contents=contents, checkout=_checkout(factory), key=artifact.key, made_of=_made_of(factory, image)
            )
            return _place(factory, main, contents, place)
    except OSError as error:
        if is_full(error):
            raise disk_full(main.folder, error) from error
        raise StoreError(
            f"{error.filename or main.folder}: {error.strerror}", hint="finished images must be writable for you"
        ) from error


def _place(factory: Factory, main: Spot, contents: Mapping[str, Content], place: Callable[[Spot], None]) -> Path:
    """Put the set into its place; return the path of its image."""
    owner, own = owner_of(main, _checkout(factory)), _own(factory, main)
    if not owner:
        place(main)
        _withdraw(own)
        return main.path
    note = read_note(main)
    if note is not None and _same(note, contents) and not damaged_in(main, note):
        return main.path
    own.folder.mkdir(exist_ok=True)
    place(own)
    factory.progress.say(
        f"{main.path}: is of {owner}, and stays; that of this checkout is {own.path} "
        "(a folder dist/ in the checkout makes a place of its own for all)"
    )
    return own.path


def _same(note: Note, contents: Mapping[str, Content]) -> bool:
    return {name: row.sha256 for name, row in note.files.items()} == {
        name: content.record.sha256 for name, content in contents.items()
    }


def _contents(factory: Factory, image: Image, artifact: Artifact, output: str) -> dict[str, Content]:
    """Return the files of the set."""
    name = image.output
    contents = {name: Content(artifact.outputs[output], artifact.file(output))}

    def add(ending: str, data: bytes) -> None:
        contents[f"{name}{ending}"] = Content(FileRecord(digest_bytes(data), len(data)), data)

    add(".bmap", block_map_of(artifact, output))
    manifest = manifest_of(factory, image, {name: content.record for name, content in contents.items()})
    add(".manifest.json", (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    add(".sha256", "".join(f"{contents[name].record.sha256}  {name}\n" for name in sorted(contents)).encode())
    return contents


# --- is it there? -------------------------------------------------------------------------------------------


def _checkout(factory: Factory) -> Path:
    return factory.paths.checkout.resolve()


def _main(factory: Factory, image: Image) -> Spot:
    """Return the place of the image."""
    return Spot(dist_folder(factory.paths), image.output)


def _own(factory: Factory, main: Spot) -> Spot:
    """Return the image's place if another checkout's image is in the usual one."""
    checkout = _checkout(factory)
    return Spot(main.folder / f"{checkout.name}-{digest_bytes(bytes(checkout))[:8]}", main.image)


def _made_of(factory: Factory, image: Image) -> Digest:
    """Return the digest of the manifest's schema and of all keys behind an image: what the manifest depends on."""
    keys: dict[str, JsonValue] = {
        node.name: factory.keys.of(node).key for node in factory.plan.needs([image.final]) if not is_folder(node)
    }
    return digest_json([SCHEMA, keys, factory.lock().digest, image.output, factory.plan.version])


def place_of(factory: Factory, image: Image) -> Path:
    """Return the path of this checkout's image, whether it exists or not."""
    main = _main(factory, image)
    return _own(factory, main).path if owner_of(main, _checkout(factory)) else main.path


def find_published(factory: Factory, image: Image, artifact: Artifact) -> Published | None:
    """Return the image and its files, if they are in their place, unchanged, and made from the present keys."""
    node = factory.plan.nodes[image.final]
    assert isinstance(node, StageNode)  # noqa: S101  (the plan makes no other final node)
    wanted = (artifact.key, _made_of(factory, image), artifact.outputs[image_of(node, artifact)].sha256)
    main = _main(factory, image)
    for spot in (main, _own(factory, main)):
        note = read_note(spot)
        if note is None or (note.key, note.made_of, note.files[image.output].sha256) != wanted:
            continue
        damaged = damaged_in(spot, note)
        if not damaged:
            return Published(spot.path, {name: row.sha256 for name, row in note.files.items()})
        factory.progress.say(f"{spot.folder / damaged}: is not as it was made; it is written again")
    return None


def need_published(factory: Factory, image: Image) -> Published:
    """Do as `find_published`; raise StageError if the image is not there."""
    artifact = factory.find(factory.plan.nodes[image.final])
    found = find_published(factory, image, artifact) if artifact is not None else None
    if found is None:
        raise StageError(f"{image.output}: is not built from what is now in the checkout", hint=f"run: ./ci/doit {image.recipe}")
    return found


def withdraw(factory: Factory, image: Image) -> None:
    """Remove an image and its files from its place; another checkout's stay."""
    main = _main(factory, image)
    if not main.folder.is_dir():
        return
    waiting = partial(factory.progress.say, f"{main.path}: is being written by another build; waiting for it")
    with changing(main, on_wait=waiting):
        if not owner_of(main, _checkout(factory)):
            remove(main)
        _withdraw(_own(factory, main))


def _withdraw(own: Spot) -> None:
    if own.folder.is_dir():
        remove(own)
        with suppress(OSError):  # other images are there
            own.folder.rmdir()
