# SPDX-License-Identifier: Apache-2.0
"""What abuild-sign calls for each file: puts a signature member in front of an index or a package.

The signature is over the raw member after it, as apk checks it. It is computed by the `openssl` command. The file is
replaced whole or not at all; a signature that it has already is replaced.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.apk.gzipstream import RawSource
from pipeline.apk.head import DEFAULT_LIMITS, read_head
from pipeline.apk.signature import PREFIX, check_key_name
from pipeline.apk.writer import memory_member
from pipeline.errors import FactoryError, FormatError
from pipeline.proc import run

_DIGESTS = {"RSA": "-sha1", "RSA256": "-sha256"}
_CHUNK = 1 << 20


def sign(private: Path, public_name: str, algorithm: str, path: Path) -> None:
    """Sign one file in place."""
    check_key_name(public_name)
    if algorithm not in _DIGESTS:
        raise FormatError(f"{algorithm!r} is not a type of signature", hint="RSA or RSA256")
    new = path.with_name(f".{path.name}.signed")
    try:
        with path.open("rb") as stream, new.open("wb") as out:
            os.fchmod(out.fileno(), os.fstat(stream.fileno()).st_mode & 0o777)
            source = RawSource(stream, str(path))
            head = read_head(source, None, "content", DEFAULT_LIMITS.index_raw, DEFAULT_LIMITS.index)
            argv = ("openssl", "dgst", _DIGESTS[algorithm], "-sign", private)
            signature = run(argv, timeout=60, stdin=head.raw).stdout
            out.write(memory_member({f"{PREFIX}{algorithm}.{public_name}": signature}, 0, end=False))
            out.write(head.raw)
            stream.seek(source.position)
            shutil.copyfileobj(stream, out, _CHUNK)
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def main(argv: Sequence[str]) -> int:
    """Its arguments: private key, name of the public key, type of signature, file."""
    try:
        sign(Path(argv[1]), argv[2], argv[3], Path(argv[4]))
    except FactoryError as problem:
        sys.stderr.write(f"abuild-sign: {problem.message}\n")
        return 1
    except OSError as problem:
        sys.stderr.write(f"abuild-sign: {problem.filename}: {problem.strerror}\n")
        return 1
    return 0
