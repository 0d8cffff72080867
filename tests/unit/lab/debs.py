# SPDX-License-Identifier: Apache-2.0
"""Makes `.deb` files for tests, also such as no dpkg would make."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

from pipeline.base.canonical import digest_file
from pipeline.supply.lock import LockedFile

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def folder(name: str) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info, b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def node(name: str, kind: bytes) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    return out


def control_text(name: str = "hello", version: str = "1:2.10-3+b1", **fields: str) -> bytes:
    rows = {"Package": name, "Version": version, "Architecture": "amd64", "Description": "says hello\n more", **fields}
    return "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in rows.items()).encode()


def deb(*members: Member, control: bytes = b"", compress: str = "xz") -> bytes:
    pack: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "gz": gzip.compress, "": bytes}
    packed = pack[compress]
    suffix = f".{compress}" if compress else ""
    head = tar(file("./control", control or control_text()))
    return ar(
        ("debian-binary", b"2.0\n"),
        (f"control.tar{suffix}", packed(head)),
        (f"data.tar{suffix}", packed(tar(folder("./"), *members))),
    )


def locked(path: Path, name: str = "hello", version: str = "1:2.10-3+b1") -> LockedFile:
    return LockedFile(name, version, digest_file(path), path.stat().st_size, f"pool/main/h/{name}/{path.name}")
