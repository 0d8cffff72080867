# SPDX-License-Identifier: Apache-2.0
"""The one form of a builder's root as a tar: the same files give the same bytes, whoever packed them and when."""

from __future__ import annotations

import copy
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path


def one_form(plain: Path, output: Path, epoch: int, *, left_out: Callable[[str], bool], folders: Mapping[str, int]) -> None:
    """Copy a root's tar, sorted, without what is `left_out` and with no time later than `epoch`.

    `folders` (path -> mode) are there, empty but for what is kept in them, whatever the root says.
    """
    with tarfile.open(plain) as source, tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as target:
        found = {_plain(info.name): info for info in source}
        kept = [path for path in found if path not in ("", ".") and not left_out(path)]
        firsts = dict[str, str]()
        for path in sorted({*kept, *folders}, key=lambda name: name.split("/")):
            if path in folders:
                info = tarfile.TarInfo(path)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, folders[path], epoch
                target.addfile(info)
            else:
                _copy(source, found, target, path, epoch=epoch, firsts=firsts)


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _copy(
    source: tarfile.TarFile,
    found: Mapping[str, tarfile.TarInfo],
    target: tarfile.TarFile,
    path: str,
    *,
    epoch: int,
    firsts: dict[str, str],
) -> None:
    """Copy one entry. Of the names of one file the first in order carries the content, the others are links to it."""
    content = _plain(found[path].linkname) if found[path].islnk() else path
    info = copy.copy(found[content])
    info.name, info.mtime = path, min(int(info.mtime), epoch)
    info.uname = info.gname = ""
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if key.startswith("SCHILY.xattr.")}
    if not info.isreg():
        target.addfile(info)
    elif content in firsts:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, firsts[content], 0
        target.addfile(info)
    else:
        firsts[content] = path
        target.addfile(info, source.extractfile(found[content]))
