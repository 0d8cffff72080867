# SPDX-License-Identifier: Apache-2.0
"""Tars in packages: signature and control have no end-of-archive, so that the members after them continue the archive.

A truncated member is noticed nevertheless: its bytes are signed, or have a digest that is.
"""

from __future__ import annotations

from pipeline.formats.tarstream import BLOCK, CHECKSUM, KINDS, XATTR, Content, TarEntry, name_bytes, shown
from pipeline.formats.tarstream import read_tar as read_any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.formats.tarfields import Readable

__all__ = ["BLOCK", "CHECKSUM", "KINDS", "XATTR", "Content", "TarEntry", "name_bytes", "read_tar", "shown"]


def read_tar(stream: Readable, where: str) -> Iterator[tuple[TarEntry, Content]]:
    """Yield the entries of a package's member, as `formats.tarstream` reads them, with names of any bytes. Raises FormatError."""
    return read_any(stream, where, end=False, any_names=True)
