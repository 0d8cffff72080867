# SPDX-License-Identifier: Apache-2.0
"""Put Debian's files beside Alpine's in one root: two C libraries, and folders that Debian has merged into /usr.

Alpine's own packages are unchanged; conflicts are resolved on Debian's side. Debian's libraries are below
/usr/lib/<triplet>, where musl never looks; its loader is where programs expect it. Names of Alpine's programs
remain Alpine's.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from pipeline.channels.lab.package_tree import Node, PackageTree

SONAME: Final = "gnu:"
"""The prefix, instead of `so:`, for glibc's libraries: a `so:` of the same name is musl's, a different library."""

_LOADERS: Final = MappingProxyType(
    {
        "x86_64": ("lib64/ld-linux-x86-64.so.2", "../usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
        "aarch64": ("lib/ld-linux-aarch64.so.1", "../usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"),
    }
)
# Alpine 3.23 has these in /lib, where mkinitfs and modprobe look.
_UNMERGED: Final = ("usr/lib/modules/", "usr/lib/firmware/")
_COMMANDS: Final = frozenset({"usr/bin", "usr/sbin", "bin", "sbin"})


def unmerge(tree: PackageTree) -> None:
    """Move kernel modules and firmware from /usr/lib to /lib."""
    for path in [path for path in tree.nodes if path.startswith(_UNMERGED)]:
        if tree.nodes[path].kind == "dir":
            tree.remove(path)
        else:
            tree.rename(path, path.removeprefix("usr/"))


def lay_loader(tree: PackageTree, arch: str) -> None:
    """Put glibc's loader where programs of `arch` expect it, if this is the package that holds it.

    The folder is a real one: lddtree, which mkinitfs uses, fails to find a loader behind a linked folder.
    """
    place, target = _LOADERS[arch]
    loader = PurePosixPath(target).name
    if any(PurePosixPath(path).name == loader and node.kind == "file" for path, node in tree.nodes.items()):
        for path in [path for path in tree.nodes if path.startswith("usr/lib64/") or path == f"usr/{place}"]:
            tree.remove(path)
        tree.add(Node(place, "link", 0o777, target=target))


def drop_commands(tree: PackageTree, taken: Collection[str]) -> list[str]:
    """Remove programs whose names Alpine's packages use; return their paths."""
    found = [
        path
        for path, node in tree.nodes.items()
        if node.kind != "dir" and str(PurePosixPath(path).parent) in _COMMANDS and PurePosixPath(path).name in taken
    ]
    for path in found:
        tree.remove(path)
    return found
