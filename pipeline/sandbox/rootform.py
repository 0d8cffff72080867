# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a builder's root as a tar: the same files give the same bytes, whoever packed them and when."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from tower.base.regular import open_regular

from pipeline.base.errors import FormatError
from pipeline.formats.tarstream import KINDS, XATTR, TarEntry, read_tar

_TYPES = {kind: flag for flag, kind in KINDS.items() if flag != tarfile.AREGTYPE}


def one_form(plain: Path, output: Path, epoch: int, *, left_out: Callable[[str], bool], folders: Mapping[str, int]) -> None:
    """Copy a root's tar, sorted, without what is `left_out` and with no time later than `epoch`. Raises FormatError.

    `folders` (path -> mode) always exist, empty except for what is kept in them.
    """
    with open_regular(plain) as source, tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as target:
        found = {_plain(entry.name): (entry, source.tell()) for entry, _ in read_tar(source, plain.name)}
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
    source: BinaryIO,
    found: Mapping[str, tuple[TarEntry, int]],
    target: tarfile.TarFile,
    path: str,
    *,
    epoch: int,
    firsts: dict[str, str],
) -> None:
    """Copy one entry. Of several names of a file, the first carries the content, the others are links to it."""
    entry, place = found[path]
    content = path
    if entry.kind == "hardlink":
        content = _plain(entry.target)
        if content not in found or found[content][0].kind == "hardlink":
            raise FormatError(f"{path}: is a hard link to {entry.target}, which is not a file of the root")
        entry, place = found[content]
    info = _info(entry, path, epoch)
    if entry.kind != "file":
        target.addfile(info)
    elif content in firsts:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, firsts[content], 0
        target.addfile(info)
    else:
        firsts[content] = path
        source.seek(place)
        target.addfile(info, source)


def _info(entry: TarEntry, path: str, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size, info.linkname = _TYPES[entry.kind], entry.mode, entry.size, entry.target
    info.uid, info.gid, info.mtime = entry.uid, entry.gid, min(entry.mtime, epoch)
    info.devmajor, info.devminor = entry.device
    info.pax_headers = {f"{XATTR}{name}": value.decode(errors="surrogateescape") for name, value in entry.xattrs}
    return info
