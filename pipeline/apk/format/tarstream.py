# SPDX-License-Identifier: Apache-2.0
"""Tar as packages hold it: signature and control are cut, so that the members after them go on where they end.

What is cut off is noticed all the same: a member's bytes are signed, or have a digest that is.
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
    """Entries of a member of a package, as `formats.tarstream` reads them, with names of any bytes. Raises FormatError."""
    return read_any(stream, where, end=False, any_names=True)
