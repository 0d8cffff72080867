# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON and digests: the one way in which the factory names content.

Times, owners, locale and the place of the checkout have no influence.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NewType

from tower.base.regular import open_regular

Digest = NewType("Digest", str)
"""SHA-256, 64 lower-case hexadecimal digits."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

_CHUNK = 1 << 20


def canonical_json(value: JsonValue) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys and no white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_bytes(data: bytes) -> Digest:
    """Return the SHA-256 of `data`."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_json(value: JsonValue) -> Digest:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> Digest:
    """Return the SHA-256 of a regular file's content, read in pieces. Raises OSError."""
    with open_regular(path) as stream:
        return Digest(hashlib.file_digest(stream, "sha256").hexdigest())


def tree_entries(root: Path) -> list[list[JsonValue]]:
    """Return the entries of a tree, sorted by path: rows of `[path, kind, executable, content]`.

    `kind` is "file", "link" or "dir"; `content` is a file's SHA-256 or a link's target. Of the mode, only
    the owner's execute bit counts, as in git, so that umask and clone make no difference. Byte code and
    editors' backups are left out. A path that is a plain file gives one row named ".".

    Raises FileNotFoundError if `root` is missing and ValueError for sockets, devices and pipes.
    """
    rows: list[list[JsonValue]] = []
    if not root.is_dir() or root.is_symlink():
        return [_entry(root, ".")]
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name != "__pycache__")
        base = Path(folder)
        links = [name for name in names if (base / name).is_symlink()]
        rel = base.relative_to(root).as_posix()
        if rel != ".":
            rows.append([rel, "dir", False, ""])
        for name in [*links, *files]:
            if not name.endswith((".pyc", "~", ".swp")):
                path = base / name
                rows.append(_entry(path, path.relative_to(root).as_posix()))
    return sorted(rows, key=lambda row: str(row[0]).encode())


def _entry(path: Path, name: str) -> list[JsonValue]:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return [name, "link", False, str(path.readlink())]
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{path}: neither a file, a folder nor a symbolic link")
    return [name, "file", bool(info.st_mode & stat.S_IXUSR), digest_file(path)]


def digest_tree(root: Path) -> Digest:
    """Return the SHA-256 of `tree_entries(root)`."""
    return digest_json([list(row) for row in tree_entries(root)])
