# SPDX-License-Identifier: Apache-2.0
"""Makes packages by other means than ours (tarfile, gzip), good ones and such as nobody should accept."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.apk.format.signature import Signer

END = bytes(1024)
Form = Literal[0, 1, 2]
Item = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


def item(name: str, content: bytes | None = None, **fields: object) -> Item:
    """A tar entry: a file with `content`, or whatever `fields` (type, linkname, size ...) make of it."""
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    return info if content is None else (info, content)


def raw_tar(items: Sequence[Item], form: Form = tarfile.PAX_FORMAT) -> bytes:
    """The entries' blocks without an end of archive; sizes are not held against contents."""
    out = b""
    for each in items:
        info, content = each if isinstance(each, tuple) else (each, b"")
        out += info.tobuf(form) + content + bytes(-len(content) % 512)
    return out


def gz(data: bytes, level: int = 6) -> bytes:
    """One gzip member without a time."""
    return gzip.compress(data, level, mtime=0)


def pkginfo(datahash: str, **fields: str) -> bytes:
    """A small .PKGINFO."""
    values = {"pkgname": "evil", "pkgver": "1-r0", "arch": "noarch", "datahash": datahash} | fields
    return "".join(f"{key} = {value}\n" for key, value in values.items()).encode()


def package(
    items: Sequence[Item] = (),
    *,
    data: bytes | None = None,
    control: Sequence[Item] | None = None,
    scripts: Mapping[str, bytes] | None = None,
    signer: Signer | None = None,
    tail: bytes = b"",
    **fields: str,
) -> bytes:
    """A package with a right datahash (and signature); every part can be replaced by something else."""
    packed = gz(raw_tar(items) + END) if data is None else data
    info = pkginfo(hashlib.sha256(packed).hexdigest(), **fields)
    entries = [item(".PKGINFO", info), *(item(name, text) for name, text in (scripts or {}).items())]
    head = gz(raw_tar(entries if control is None else control))
    return (signature(head, signer) if signer else b"") + head + packed + tail


def signature(data: bytes, signer: Signer) -> bytes:
    """A signature member."""
    return gz(raw_tar([item(signer.member_name, signer.sign(data))], tarfile.GNU_FORMAT))


def stream(data: bytes) -> io.BytesIO:
    """`data` as a file."""
    return io.BytesIO(data)
