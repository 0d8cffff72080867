# SPDX-License-Identifier: Apache-2.0
"""Check a root against signed packages, since the mini root whose apk installed it is not trusted.

The keys of packages do not sign the mini root. So the files that its apk installed are compared with the packages: every
file of theirs must be there unchanged, and no other file may be executable. Scripts may write other files (accounts,
lists, links to busybox, apk's database), below etc/ and var/ and as links and plain data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tower.base.regular import open_regular

from pipeline.apk.format.package import read_package
from pipeline.base.errors import VerifyError
from pipeline.formats.tarstream import Content, read_tar

_WRITTEN_BY_SCRIPTS = ("etc/", "var/", "lib/apk/", "usr/lib/apk/", "root/")
_CHUNK = 1 << 20
_SHOWN = 20
_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Held:
    """The content of a path: the digest of a file, or `-> target` of a link."""

    content: str
    executable: bool = False


def check_root(root: Path, packages: Iterable[Path], where: str) -> int:
    """Return how many files of the root (a tar) the packages vouch for. Raises VerifyError naming those that differ."""
    found = read_root(root)
    vouched: dict[str, set[str]] = {}
    for path in packages:
        for name, held in _package_files(path):
            vouched.setdefault(_real(found, name), set()).add(held)
    faults = []
    for name, contents in sorted(vouched.items()):
        if name.startswith(_WRITTEN_BY_SCRIPTS):
            continue
        if name not in found:
            faults.append(f"{name}: is missing")
        elif found[name].content not in contents:
            faults.append(f"{name}: differs from the signed package")
    faults += [
        f"{name}: is executable, but in no signed package"
        for name, held in sorted(found.items())
        if held.executable and name not in vouched
    ]
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise VerifyError(
            "\n  ".join([f"{where}: the mini root's apk installed other files than the packages have", *faults[:_SHOWN], *more]),
            hint="do not use this mini root; look at its digest in the lock",
        )
    return len(vouched)


def read_root(root: Path) -> dict[str, Held]:
    """Return files and links of a root's tar, by path. Raises FormatError."""
    found: dict[str, Held] = {}
    with open_regular(root) as stream:
        for entry, content in read_tar(stream, root.name):
            name = _plain(entry.name)
            if entry.kind == "symlink":
                found[name] = Held(f"-> {entry.target}")
            elif entry.kind == "hardlink":
                found[name] = found.get(_plain(entry.target), Held("a link to nothing", executable=True))
            elif entry.kind == "file":
                found[name] = Held(_digest(content), bool(entry.mode & 0o111))
    return found


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _digest(stream: Content) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(_CHUNK):
        digest.update(piece)
    return digest.hexdigest()


def _package_files(path: Path) -> Iterable[tuple[str, str]]:
    """Yield path and content of every file and link in a package."""
    seen: dict[str, str] = {}
    with open_regular(path) as stream:
        for entry, content in read_package(stream, None, name=path.name).iter_data():
            if entry.kind == "file":
                digest = hashlib.sha256()
                while piece := content.read(_CHUNK):
                    digest.update(piece)
                seen[entry.name] = digest.hexdigest()
            elif entry.kind == "hardlink":
                seen[entry.name] = seen.get(entry.target.strip("/"), "")
            elif entry.kind == "symlink":
                seen[entry.name] = f"-> {entry.target}"
    return seen.items()


def _real(found: dict[str, Held], name: str) -> str:
    """Return the real path in a root whose folders may be links (bin -> usr/bin)."""
    done: list[str] = []
    todo = name.split("/")
    for _ in range(_DEPTH):
        while len(todo) > 1:
            part = todo.pop(0)
            if part == "..":
                del done[-1:]
            elif part != ".":
                done.append(part)
            link = found.get("/".join(done))
            if link is not None and link.content.startswith("-> "):
                target = link.content[3:]
                done = [] if target.startswith("/") else done[:-1]
                todo = [*target.strip("/").split("/"), *todo]
                break
        else:
            return "/".join([*done, *todo])
    return name
