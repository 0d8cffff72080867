# SPDX-License-Identifier: Apache-2.0
"""Unpack a stream that others packed with gzip, xz or bzip2; any damage raises the same error."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import IO

from pipeline.base.errors import FormatError

_MAGICS = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"BZh": "bz2"}


class DecompressedStream:
    """The plain bytes of `stream`; `form` says how it is packed: gz, xz, bz2, or "" if it is not."""

    def __init__(self, stream: IO[bytes], form: str, where: str) -> None:
        self._where = where
        self._plain: IO[bytes] = stream
        if form == "gz":
            self._plain = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
        elif form == "xz":
            self._plain = lzma.LZMAFile(stream)  # noqa: SIM115  (the caller closes the stream)
        elif form == "bz2":
            self._plain = bz2.BZ2File(stream)
        elif form:
            raise FormatError(f"{where}: unknown packing {form}")

    def read(self, size: int) -> bytes:
        """Read up to `size` plain bytes; b"" at the end. Raises FormatError, and OSError if `stream` cannot be read."""
        try:
            return self._plain.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise FormatError(f"{self._where}: damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise FormatError(f"{self._where}: damaged: {error}") from error  # raised by bz2


def form_of(stream: IO[bytes]) -> str:
    """Return how a seekable file is packed; the file is at its start afterwards."""
    head = stream.read(6)
    stream.seek(0)
    return next((form for magic, form in _MAGICS.items() if head.startswith(magic)), "")
