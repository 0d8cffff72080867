# SPDX-License-Identifier: Apache-2.0
"""The last step: finished images get their names and their place, each with manifest, block map and checksums.

The place is the first of ./dist, ./builds and the cache's builds/ that exists; the last is made if none does.
Files are copied, never linked, so that nobody who edits an image there edits the store; one that was edited is
noticed and written again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.artifact import Artifact, FileRecord
from pipeline.canonical import Digest, JsonValue, canonical_json, digest_bytes, digest_file, digest_json
from pipeline.errors import StageError, StoreError
from pipeline.locks import try_lock, wait_lock
from pipeline.manifest import manifest_of
from pipeline.paths import Paths
from pipeline.plan import Image, StageNode, is_folder
from pipeline.store import disk_full, is_full

if TYPE_CHECKING:
    from pipeline.factory import Factory

_FICLONE = 0x40049409
"""ioctl of Linux: share the blocks of another file (where the file system can), each side free to change its own."""
_CHUNK = 4 << 20
ENDINGS = ("", ".bmap", ".manifest.json", ".sha256")
"""What is added to the name of an image for the files beside it."""


def dist_folder(paths: Paths) -> Path:
    """Where finished images go."""
    for folder in (paths.checkout / "dist", paths.checkout / "builds"):
        if folder.is_dir():
            return folder
    return paths.cache / "builds"


def image_of(node: StageNode, artifact: Artifact) -> str:
    """Which output is the image: the one that fits the first pattern of stage.toml's `outputs`."""
    images = [name for name in artifact.outputs if fnmatchcase(name, node.spec.outputs[0]) and not name.endswith(".bmap")]
    if len(images) != 1:
        raise StageError(
            f"{node.name}: makes {', '.join(sorted(artifact.outputs))}, and not one image",
            hint=f"the image of a last stage is what fits {node.spec.outputs[0]!r}",
        )
    return images[0]


def block_map_of(artifact: Artifact, image: str) -> bytes:
    """The block map that the stage made, or one of the image as it is (a compressed one needs the stage's)."""
    for name in artifact.outputs:
        if name.endswith(".bmap"):
            return artifact.file(name).read_bytes()
    from pipeline import blockmap

    return blockmap.dump(blockmap.read_image(artifact.file(image)))


def publish(factory: Factory, image: Image) -> Path:
    """Bring an image, whose last stage is built, to its place; the path of the image there."""
    node = factory.plan.nodes[image.final]
    artifact = factory.need(node).artifact
    assert isinstance(node, StageNode)  # noqa: S101  (the plan makes no other final node)
    output = image_of(node, artifact)
    record = artifact.outputs[output]
    small = {f"{image.output}.bmap": block_map_of(artifact, output)}
    records = {image.output: record} | {name: _record(data) for name, data in small.items()}
    manifest = json.dumps(manifest_of(factory, image, records), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    small[f"{image.output}.manifest.json"] = manifest.encode()
    records = {image.output: record} | {name: _record(data) for name, data in small.items()}
    small[f"{image.output}.sha256"] = "".join(f"{records[name].sha256}  {name}\n" for name in sorted(records)).encode()
    records = {image.output: record} | {name: _record(data) for name, data in small.items()}
    folder = dist_folder(factory.paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _place(folder / image.output, record, partial(_copy, artifact.file(output)))
        for name, data in small.items():
            _place(folder / name, records[name], partial(_write, data))
        _note(factory, image, artifact, folder, records)
    except OSError as error:
        if is_full(error):
            raise disk_full(folder, error) from error
        raise StoreError(
            f"{error.filename or folder}: {error.strerror}", hint="finished images must be writable for you"
        ) from error
    return folder / image.output


def _place(path: Path, record: FileRecord, fill: Callable[[BinaryIO], object]) -> None:
    """Make `path` hold what `record` says: whole, synced, or as it was before. One that holds it already stays."""
    if path.is_file() and not path.is_symlink() and path.stat().st_size == record.size and digest_file(path) == record.sha256:
        return
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    lock = wait_lock(temporary)
    try:
        with temporary.open("w+b") as out:
            fill(out)
            out.flush()
            os.fsync(out.fileno())
        found = digest_file(temporary)
        if found != record.sha256:
            raise StoreError(
                f"{path.name}: the copy has sha256 {found[:12]}, expected {record.sha256[:12]}", hint="run the same command again"
            )
        temporary.chmod(0o644)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
        lock.release()


def _sweep(path: Path) -> None:
    """Remove what killed builds left of `path`; who is at work there holds a lock."""
    for left in path.parent.glob(f".{path.name}.*"):
        lock = try_lock(left)
        if lock is not None:
            lock.remove()


def _record(data: bytes) -> FileRecord:
    return FileRecord(digest_bytes(data), len(data))


def _write(data: bytes, out: BinaryIO) -> None:
    out.write(data)


def _copy(source: Path, out: BinaryIO) -> None:
    """Copy a file: by sharing its blocks where the file system can, else leaving holes where it holds nothing."""
    with source.open("rb") as stream:
        with suppress(OSError):
            fcntl.ioctl(out.fileno(), _FICLONE, stream.fileno())
            return
        while chunk := stream.read(_CHUNK):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(stream.tell())


# --- is it there? -------------------------------------------------------------------------------------------


def _note_path(factory: Factory, image: Image) -> Path:
    return factory.paths.build / "published" / f"{image.recipe}-{image.target}.json"


def _made_of(factory: Factory, image: Image) -> Digest:
    """Digest of all keys behind an image: what the manifest says, beyond the image's own bytes."""
    keys: dict[str, JsonValue] = {
        node.name: factory.keys.of(node).key for node in factory.plan.needs([image.final]) if not is_folder(node)
    }
    return digest_json([keys, factory.lock().digest, image.output, factory.plan.version])


def _note(factory: Factory, image: Image, artifact: Artifact, folder: Path, records: dict[str, FileRecord]) -> None:
    from pipeline.files import write_file

    rows: dict[str, JsonValue] = {
        name: {"sha256": record.sha256, "stat": _fingerprint(folder / name)} for name, record in sorted(records.items())
    }
    note: JsonValue = {"folder": str(folder), "key": artifact.key, "made of": _made_of(factory, image), "files": rows}
    write_file(_note_path(factory, image), canonical_json(note))


def _fingerprint(path: Path) -> list[JsonValue]:
    """What any change of a file also changes."""
    info = path.lstat()
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def is_published(factory: Factory, image: Image, artifact: Artifact) -> bool:
    """Whether the image and all beside it are in their place, untouched, and made from the present keys."""
    folder = dist_folder(factory.paths)
    try:
        note = json.loads(_note_path(factory, image).read_bytes())
        if [note["folder"], note["key"], note["made of"]] != [str(folder), artifact.key, _made_of(factory, image)]:
            return False
        for name, row in note["files"].items():
            if _fingerprint(folder / name) != row["stat"] and digest_file(folder / name) != row["sha256"]:
                factory.progress.say(f"{folder / name}: is not as it was made; it is written again")
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def withdraw(factory: Factory, image: Image) -> None:
    """Remove an image and what is beside it from its place."""
    folder = dist_folder(factory.paths)
    for ending in ENDINGS:
        _sweep(folder / f"{image.output}{ending}")
        (folder / f"{image.output}{ending}").unlink(missing_ok=True)
    _note_path(factory, image).unlink(missing_ok=True)
