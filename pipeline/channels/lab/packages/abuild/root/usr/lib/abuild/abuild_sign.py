# SPDX-License-Identifier: Apache-2.0
"""What abuild-sign runs for each file: puts a signature in front of an index or a package of apk's format 2.

    abuild_sign.py PRIVATE-KEY PUBLIC-NAME RSA|RSA256 FILE

A file of that format is gzip members one after the other. The signature is a member of its own, a tar without its end that
holds `.SIGN.<type>.<public name>`, and is over the raw bytes of the member after it. One that the file has is replaced;
the file is replaced whole or not at all. `openssl` computes the signature.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

DIGESTS = {"RSA": "-sha1", "RSA256": "-sha256"}
PREFIX = ".SIGN."
NAME = re.compile(r"[A-Za-z0-9._@+-]+")
BLOCK = 512
MOST_MEMBER = 256 << 20


def split(data: bytes, where: str) -> tuple[bytes, bytes, bytes]:
    """The first member, raw and unpacked, and all that follows it. Ends the program if there is none."""
    unpack = zlib.decompressobj(31)
    try:
        plain = unpack.decompress(data, MOST_MEMBER)
    except zlib.error as error:
        sys.exit(f"abuild-sign: {where}: not gzip members: {error}")
    if not unpack.eof:
        sys.exit(f"abuild-sign: {where}: cut short, or a member of more than {MOST_MEMBER} bytes")
    return data[: len(data) - len(unpack.unused_data)], plain, unpack.unused_data


def member(name: str, content: bytes) -> bytes:
    """A gzip member with one file. Stored, not packed: its length does not depend on the signature's bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    plain = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)
    pack = zlib.compressobj(0, zlib.DEFLATED, 31)
    return pack.compress(plain) + pack.flush()


def main(private: str, public: str, kind: str, file: str) -> None:
    """Sign one file in place."""
    if kind not in DIGESTS:
        sys.exit(f"abuild-sign: {kind!r} is not a type of signature: RSA or RSA256")
    if not NAME.fullmatch(public):
        sys.exit(f"abuild-sign: {public!r} cannot be the name of a key")
    path = Path(file)
    data = path.read_bytes()
    first, plain, rest = split(data, file)
    while plain.startswith(PREFIX.encode()):
        first, plain, rest = split(rest, file)
    signed = subprocess.run(
        ["openssl", "dgst", DIGESTS[kind], "-sign", private], input=first, stdout=subprocess.PIPE, check=False
    )
    if signed.returncode:
        sys.exit(f"abuild-sign: {file}: openssl could not sign with {private}")
    new = path.with_name(f".{path.name}.signed")
    try:
        with new.open("wb") as out:
            os.fchmod(out.fileno(), path.stat().st_mode & 0o777)
            out.write(member(f"{PREFIX}{kind}.{public}", signed.stdout) + first + rest)
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as problem:
        sys.exit(f"abuild-sign: {problem.filename}: {problem.strerror}")
