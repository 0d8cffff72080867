# SPDX-License-Identifier: Apache-2.0
"""The files of one package between unpacking and packing: nodes in memory, contents one after another in one file.

Nothing of a package is a file of its own here: no write follows a link, and thousands of files are neither made nor
removed. Paths are in the merged-/usr form of the devices (`bin/x` is `usr/bin/x`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final, Literal

from pipeline.base.errors import FormatError

if TYPE_CHECKING:
    from pipeline.formats.tarfields import Readable

LEVEL: Final = 2
"""Of deflate, in the lab's packages: a third of the time of level 6, and 7 % larger."""
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MAX_PATH = 1024
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a tree. A file's content is the tree's `content(path)`."""

    path: str
    kind: Literal["file", "dir", "link"]
    mode: int
    uid: int = 0
    gid: int = 0
    target: str = ""
    user: str = "root"
    group: str = "root"
    """Owners by name, which apk uses; the numbers count if a name is unknown."""


def clean_path(name: str, where: str) -> str:
    """Return `name` relative to the root, merged into /usr; "" for the root. Raises FormatError for a path that leaves it."""
    path = name.removeprefix("./").rstrip("/")
    parts = path.split("/")
    if path in ("", "."):
        return ""
    hostile = path.startswith("/") or any(part in ("", ".", "..") for part in parts) or len(path) > _MAX_PATH
    if hostile or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise FormatError(f"{where}: path leaves the package or cannot be named")
    return f"usr/{path}" if parts[0] in _MERGED and len(parts) > 1 else path


class PackageTree:
    """Nodes by path; `contents`, an empty file open for writing and reading, gets the contents of the files."""

    def __init__(self, contents: IO[bytes]) -> None:
        self.nodes: dict[str, Node] = {}
        self._contents = contents
        self._places: dict[str, tuple[int, int]] = {}

    def content(self, path: str) -> bytes:
        """Return the content of the file `path`."""
        start, size = self._places[path]
        self._contents.seek(start)
        return self._contents.read(size)

    def lay(self, path: str, place: Path) -> None:
        """Write the content of the file `path` to `place`, with the folders above it: for a program that takes files."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.content(path))

    def add(self, node: Node) -> None:
        """Add a folder or a link; it replaces an earlier entry, except that a folder stays a folder."""
        if node.kind == "dir" and node.path in _MERGED:
            return
        self._places.pop(node.path, None)
        self.nodes[node.path] = node

    def add_file(self, node: Node, stream: Readable) -> None:
        """Add a file with the content of `stream`. Raises FormatError if its path is a folder's, or is below a file or link."""
        self._check(node.path)
        start = self._contents.seek(0, io.SEEK_END)
        while piece := stream.read(_PIECE):
            self._contents.write(piece)
        self._places[node.path] = (start, self._contents.tell() - start)
        self.nodes[node.path] = node

    def copy(self, source: str, path: str, where: str) -> None:
        """Add `path` as a copy of the file `source` (a hard link of the archive). Raises FormatError."""
        node = self.nodes.get(source)
        if node is None or node.kind != "file":
            raise FormatError(f"{where}: hard link to {source!r}, which is not a file of this package")
        self._check(path)
        self._places[path] = self._places[source]
        self.nodes[path] = replace(node, path=path)

    def _check(self, path: str) -> None:
        for parent in PurePosixPath(path).parents:
            above = self.nodes.get(str(parent))
            if above is not None and above.kind != "dir":
                raise FormatError(f"{path!r}: {str(parent)!r} above it is not a folder")
        if path in self.nodes and self.nodes[path].kind == "dir":
            raise FormatError(f"{path!r}: is a folder already")

    def remove(self, path: str) -> None:
        """Remove one entry."""
        del self.nodes[path]
        self._places.pop(path, None)

    def rename(self, source: str, path: str) -> None:
        """Move one file or link. Raises FormatError as `add_file` does, if it is a file."""
        node = self.nodes[source]
        if node.kind == "file":
            self._check(path)
            self._places[path] = self._places.pop(source)
        del self.nodes[source]
        self.nodes[path] = replace(node, path=path)

    def files(self) -> Iterator[Node]:
        """Yield the regular files, sorted by path."""
        return (self.nodes[path] for path in sorted(self.nodes) if self.nodes[path].kind == "file")

    def finish(self) -> list[Node]:
        """Return all nodes, parents first, without empty folders, and with missing parents."""
        found = {path: node for path, node in self.nodes.items() if node.kind != "dir" or _keeps(path)}
        for path in list(found):
            for parent in map(str, PurePosixPath(path).parents):
                if parent != "." and parent not in found:
                    above = self.nodes.get(parent)
                    found[parent] = above if above is not None and above.kind == "dir" else Node(parent, "dir", 0o755)
        return sorted(found.values(), key=lambda node: node.path.split("/"))


def _keeps(path: str) -> bool:
    """Tell whether an empty folder is kept: those for state and mount points outside /usr."""
    return path.partition("/")[0] != "usr"


def matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for glob patterns in which `*` stays within a folder and `**` does not."""
    parts = []
    for pattern in patterns:
        regex = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        parts.append(regex.removesuffix("/.*") + "(?:/.*)?" if regex.endswith("/.*") else regex)
    return re.compile("|".join(f"(?:{part})" for part in parts) or r"(?!)")
