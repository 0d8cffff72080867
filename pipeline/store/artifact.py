# SPDX-License-Identifier: Apache-2.0
"""An artifact of the store: the files that a stage made, and the record of their content.

The record (`record.json`) is canonical JSON and the same on every machine; the fingerprint (`stat.json`) is
this machine's cheap proof that no file was touched since its content was last hashed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, JsonValue, canonical_json, digest_bytes, digest_file, digest_json
from pipeline.base.errors import StoreError

FILES, RECORD, KEY, STAT = "files", "record.json", "key.json", "stat.json"
PULLED = "pulled"
"""Exists if the artifact was not built here but pulled from a shared cache: which one, and who signed it."""
_SCHEMA = 1
_HEX = frozenset("0123456789abcdef")
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The content of one file of an artifact."""

    sha256: Digest
    size: int
    executable: bool = False

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record as JSON; the execute bit is named only if it is set."""
        plain: dict[str, JsonValue] = {"sha256": self.sha256, "size": self.size}
        return {**plain, "executable": True} if self.executable else plain


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished, recorded folder of files; `path` is the folder, `outputs` its files by relative path."""

    key: Digest
    path: Path
    outputs: Mapping[str, FileRecord]
    seconds: float

    def file(self, name: str) -> Path:
        """Return the path of one output. Raises StoreError if the artifact has no such file."""
        if name not in self.outputs:
            have = ", ".join(sorted(self.outputs)[:10])
            raise StoreError(f"{self.key[:12]}: the artifact holds no {name}; it holds {have or 'nothing'}")
        return self.path / name

    @property
    def size(self) -> int:
        """The sum of its files' sizes."""
        return sum(record.size for record in self.outputs.values())

    @property
    def content(self) -> Digest:
        """The digest of its content, whatever it was made from: equal content gives equal digests."""
        return digest_json(outputs_json(self.outputs))


class DamagedError(StoreError):
    """An artifact differs from its record: the text names the file and the reason, `key` the artifact."""

    def __init__(self, message: str, *, key: Digest | None = None) -> None:
        super().__init__(message)
        self.key = key


def outputs_json(outputs: Mapping[str, FileRecord]) -> dict[str, JsonValue]:
    """Return the outputs as in a record."""
    return {name: record.to_json() for name, record in outputs.items()}


def is_key(name: str) -> bool:
    """Tell whether `name` can be the key of an artifact."""
    return len(name) == 64 and _HEX.issuperset(name)


def stat_files(root: Path) -> dict[str, os.stat_result]:
    """Return the regular files below `root` by relative path, sorted. Raises StoreError for links and special files."""
    found: dict[str, os.stat_result] = {}
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name)
                elif entry.is_file(follow_symlinks=False):
                    found[name] = entry.stat(follow_symlinks=False)
                else:
                    hint = "put links and devices into a tar"
                    raise StoreError(f"{name}: an artifact holds regular files and folders only", hint=hint)
    odd = next((name for name in found if not _is_text(name)), None)
    if odd is not None:
        raise StoreError(f"{os.fsencode(odd)!r}: the name of a file in an artifact must be UTF-8")
    return {name: found[name] for name in sorted(found, key=str.encode)}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def hash_files(root: Path, known: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    """Return the record of every file below `root`; files in `known` with the right size are not read again."""
    outputs: dict[str, FileRecord] = {}
    for name, info in stat_files(root).items():
        record = known.get(name)
        if record is None or record.size != info.st_size:
            record = FileRecord(digest_file(root / name), info.st_size, bool(info.st_mode & stat.S_IXUSR))
        outputs[name] = record
    return outputs


def record_json(key: Digest, document: JsonValue, outputs: Mapping[str, FileRecord], seconds: float) -> bytes:
    """Return the bytes of `record.json`."""
    return canonical_json(
        {"schema": _SCHEMA, "key": key, "document": document, "outputs": outputs_json(outputs), "seconds": seconds}
    )


def read_artifact(folder: Path, key: Digest) -> Artifact:
    """Return the artifact of `key` in `folder`, by its record alone. Raises DamagedError if the record cannot be right."""
    outputs, seconds, _ = parse_record(_read(folder / RECORD), key)
    if digest_bytes(_read(folder / KEY)) != key:
        raise DamagedError(f"{KEY}: not the document the key was made of")
    return Artifact(key, folder / FILES, outputs, seconds)


def parse_record(raw: bytes, key: Digest) -> tuple[dict[str, FileRecord], float, JsonValue]:
    """Return outputs, seconds and key document of a record. Raises DamagedError if it cannot be the record of `key`."""
    try:
        data = parse_json(raw)
        outputs = {
            str(name): FileRecord(Digest(str(row["sha256"])), int(row["size"]), bool(row.get("executable", False)))
            for name, row in data["outputs"].items()
        }
        seconds = float(data["seconds"])
        named, schema, document = data["key"], data["schema"], data["document"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{RECORD}: not a record ({error})") from error
    if schema != _SCHEMA or named != key:
        raise DamagedError(f"{RECORD}: is the record of {str(named)[:12]}, schema {schema}")
    if digest_json(document) != key:
        raise DamagedError(f"{KEY}: not the document the key was made of")
    odd = next((name for name, row in outputs.items() if not _is_inside(name) or not is_key(row.sha256) or row.size < 0), None)
    if odd is not None:
        raise DamagedError(f"{RECORD}: {odd!r} cannot be a file of an artifact")
    return outputs, seconds, document


def _is_inside(name: str) -> bool:
    """Tell whether the path is that of a file inside the artifact."""
    return _is_text(name) and all(
        part not in ("", ".", "..") and "\0" not in part and len(part.encode()) <= _LONGEST_NAME for part in name.split("/")
    )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{path.name}: missing") from error
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error


def fingerprint(folder: Path) -> dict[str, JsonValue]:
    """Return the file system's data about the artifact in `folder`, which any change of a file also changes."""
    rows: dict[str, JsonValue] = {
        name: [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_mode]
        for name, info in stat_files(folder / FILES).items()
    }
    return {"record": digest_bytes(_read(folder / RECORD)), "files": rows}


def check(folder: Path, key: Digest, *, full: bool) -> tuple[Artifact, bool]:
    """Check the artifact in `folder`; return it, and whether something had to be hashed.

    Files whose fingerprint is unchanged are trusted unless `full`. Raises DamagedError.
    """
    artifact = read_artifact(folder, key)
    try:
        now = fingerprint(folder)
    except (StoreError, OSError) as error:
        raise DamagedError(str(error)) from error
    rows = cast(dict[str, JsonValue], now["files"])
    if rows.keys() != artifact.outputs.keys():
        odd = sorted(rows.keys() ^ artifact.outputs.keys())[0]
        raise DamagedError(f"{odd}: {'missing' if odd in artifact.outputs else 'not in the record'}")
    before = _read_fingerprint(folder)
    trusted = before.get("files") if before.get("record") == now["record"] and not full else None
    old = trusted if isinstance(trusted, dict) else {}
    hashed = False
    for name, row in rows.items():
        if old.get(name) != row:
            _check_file(artifact, name)
            hashed = True
    return artifact, hashed


def _check_file(artifact: Artifact, name: str) -> None:
    want, path = artifact.outputs[name], artifact.path / name
    try:
        info, digest = path.stat(), digest_file(path)
    except OSError as error:
        raise DamagedError(f"{name}: {error.strerror}") from error
    if info.st_size != want.size:
        raise DamagedError(f"{name}: {info.st_size} bytes, the record says {want.size}")
    if digest != want.sha256:
        raise DamagedError(f"{name}: sha256 {digest[:12]}, the record says {want.sha256[:12]}")
    if bool(info.st_mode & stat.S_IXUSR) != want.executable:
        raise DamagedError(f"{name}: its execute bit differs from the record")


def _read_fingerprint(folder: Path) -> dict[str, JsonValue]:
    try:
        data = parse_json(read_regular(folder / STAT))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
