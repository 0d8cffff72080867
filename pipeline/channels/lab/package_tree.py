# SPDX-License-Identifier: Apache-2.0
"""The files of one package between unpacking and packing: nodes in memory, contents in a folder of their own.

Symbolic links exist only in memory, so no write ever follows one. Paths are in the merged-/usr form of the
devices (`bin/x` is `usr/bin/x`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from pipeline.base.errors import FormatError

if TYPE_CHECKING:
    from pipeline.formats.tarfields import Readable

LEVEL: Final = 2
"""Of deflate, in the lab's packages: a third of the time of level 6, and 7 % larger."""
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MAX_PATH = 1024


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a tree. A file's content is at the tree's `content(path)`."""

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
    """Nodes by path; `folder` holds the contents of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}

    def content(self, path: str) -> Path:
        """Return the place of the content of the file `path`."""
        return self.folder / path

    def add(self, node: Node) -> None:
        """Add a folder or a link; it replaces an earlier entry, except that a folder stays a folder."""
        if node.kind == "dir" and node.path in _MERGED:
            return
        before = self.nodes.get(node.path)
        if before is not None and before.kind == "file":
            self.content(node.path).unlink()
        self.nodes[node.path] = node

    def add_file(self, node: Node, stream: Readable) -> None:
        """Add a file with the content of `stream`."""
        place = self._place(node.path)
        with place.open("wb") as out:
            while piece := stream.read(1 << 20):
                out.write(piece)
        self.nodes[node.path] = node

    def copy(self, source: str, path: str, where: str) -> None:
        """Add `path` as a copy of the file `source` (a hard link of the archive). Raises FormatError."""
        node = self.nodes.get(source)
        if node is None or node.kind != "file":
            raise FormatError(f"{where}: hard link to {source!r}, which is not a file of this package")
        shutil.copyfile(self.content(source), self._place(path))
        self.nodes[path] = replace(node, path=path)

    def _place(self, path: str) -> Path:
        for parent in PurePosixPath(path).parents:
            above = self.nodes.get(str(parent))
            if above is not None and above.kind != "dir":
                raise FormatError(f"{path!r}: {str(parent)!r} above it is not a folder")
        if path in self.nodes and self.nodes[path].kind == "dir":
            raise FormatError(f"{path!r}: is a folder already")
        place = self.content(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def remove(self, path: str) -> None:
        """Remove one entry."""
        if self.nodes.pop(path).kind == "file":
            self.content(path).unlink()

    def rename(self, source: str, path: str) -> None:
        """Move one file or link."""
        node = self.nodes[source]
        if node.kind == "file":
            self.content(source).replace(self._place(path))
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
