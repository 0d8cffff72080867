# SPDX-License-Identifier: Apache-2.0
"""Small signed indexes to solve worlds over."""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode

from pipeline.apk.format.index import IndexEntry, write_index
from pipeline.apk.format.signature import Signer
from pipeline.apk.solver.pool import IndexFile


def package(text: str, **fields: str | int) -> IndexEntry:
    """`foo-1-r0` with `depends="bar !baz"` and so on."""
    name, version, revision = text.rsplit("-", 2)
    checksum = "Q1" + b64encode(hashlib.sha1(f"{text}{fields}".encode(), usedforsecurity=False).digest()).decode()
    values: dict[str, object] = {key: tuple(value.split()) if isinstance(value, str) else value for key, value in fields.items()}
    values["arch"] = fields.get("arch", "x86_64")
    return IndexEntry(checksum=checksum, name=name, version=f"{version}-{revision}", size=7, **values)  # type: ignore[arg-type]


def index(signer: Signer, *entries: IndexEntry, name: str = "main") -> IndexFile:
    """The signed index of some packages."""
    out = io.BytesIO()
    write_index(out, name, entries, signer, 0)
    return IndexFile(name, out.getvalue())
