# SPDX-License-Identifier: Apache-2.0
"""Is an image what its makers signed? Checked with public keys alone, before it is written anywhere.

An image has a signature of its own beside it, or stands in a signed SHA256SUMS, or both; all that is there must hold.
A block map beside it must describe the image to the last block, the empty ones included.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from tower.minisign import SUFFIX, PublicKey, SignatureError, parse_public_key, read_public_keys, read_small, verify_file

SUMS: Final = "SHA256SUMS"
KEY_FOLDERS: Final = (Path("/etc/tower/keys"), Path("~/.local/tower/keys"))
"""Where the public keys of trusted makers of images lie, as *.pub."""
_SUM_LINE: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+-]*)")
_MAP_MOST: Final = 64 << 20
_CHUNK: Final = 1 << 20
_CHECKSUM: Final = re.compile(rb"<BmapFileChecksum>\s*([0-9a-f]{64})\s*</BmapFileChecksum>")
_RANGE: Final = re.compile(rb'<Range chksum="([0-9a-f]{64})">\s*(\d{1,18})(?:-(\d{1,18}))?\s*</Range>')


class ImageError(SignatureError):
    """An image is not what it should be: what, expected and got."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An image that holds, and by what."""

    signer: PublicKey
    release: Mapping[str, str]
    """What the trusted comment says: version, channel."""
    checks: tuple[str, ...]


def trusted_keys(folders: Iterable[Path] = KEY_FOLDERS) -> tuple[PublicKey, ...]:
    """The keys in the folders of this system and this user."""
    return read_public_keys(path for folder in folders for path in sorted(folder.expanduser().glob("*.pub")))


def verify_image(path: Path, keys: Iterable[PublicKey]) -> Verified:
    """Check an image against all that lies beside it. Raises SignatureError saying what is wrong."""
    known = tuple(keys)
    if not path.is_file():
        raise ImageError(f"{path}: there is no such image")
    own, sums = path.with_name(path.name + SUFFIX), path.with_name(SUMS)
    found: list[tuple[PublicKey, dict[str, str], str]] = []
    if own.exists():
        found.append((*_signed(path, path.name, known), "signature"))
    # A SHA256SUMS that neither is signed nor names the image belongs to something else.
    if sums.exists() and (sums.with_name(SUMS + SUFFIX).exists() or path.name.encode() in read_small(sums)):
        signer, said = _signed(sums, SUMS, known)
        listed = parse_sums(read_small(sums), str(sums))
        if path.name in listed:
            check_sum(path, listed[path.name])
            found.append((signer, said, SUMS))
    if not found:
        raise ImageError(f"{path}: is not signed: there is neither {own.name} nor a signed {SUMS} that names it")
    if len({tuple(sorted(said.items())) for _, said, _ in found}) > 1:
        raise ImageError(f"{path}: its signature and {SUMS} are of different releases")
    checks = [what for _, _, what in found]
    block_map = path.with_name(f"{path.name}.bmap")
    if block_map.exists():
        check_block_map(path, block_map)
        checks.append("block map")
    return Verified(found[0][0], found[0][1], tuple(checks))


def _signed(path: Path, name: str, keys: tuple[PublicKey, ...]) -> tuple[PublicKey, dict[str, str]]:
    """Signer and release of a signed file, whose signature must be of a file of this name."""
    signature = verify_file(path, keys)
    said = read_comment(signature.trusted_comment, str(path))
    if said.pop("file") != name:
        raise ImageError(f"{path}: its signature is of a file of another name: {signature.trusted_comment!r}")
    return next(key for key in keys if key.key_id == signature.key_id), said


def comment_of(name: str, version: str, channel: str) -> str:
    """The trusted comment of a file of a release."""
    return f"file:{name}\tversion:{version}\tchannel:{channel}"


def read_comment(text: str, where: str) -> dict[str, str]:
    """`comment_of`, back. Raises ImageError for the comment of anything else."""
    rows = dict(word.partition(":")[::2] for word in text.split("\t"))
    if list(rows) != ["file", "version", "channel"] or comment_of(*rows.values()) != text:
        raise ImageError(f"{where}: its trusted comment {text!r} is not that of a file of a release")
    return rows


# --- SHA256SUMS -----------------------------------------------------------------------------------------------


def parse_sums(data: bytes, where: str) -> dict[str, str]:
    """File name -> SHA-256 of a SHA256SUMS: plain names, sorted, each once. Raises ImageError."""
    lines = data.decode("utf-8", errors="replace").split("\n")
    if lines.pop() != "" or not lines:
        raise ImageError(f"{where}: is cut off")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise ImageError(f"{where}: line {number} is not a checksum and the plain name of a file")
        if found and match[2] <= list(found)[-1]:
            raise ImageError(f"{where}: line {number}: {match[2]} is out of order")
        found[match[2]] = match[1]
    return found


def dump_sums(sums: Mapping[str, str]) -> bytes:
    """A SHA256SUMS."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sum(path: Path, expected: str) -> None:
    """ImageError unless the file has this SHA-256."""
    got = sha256_of(path)
    if got != expected:
        raise ImageError(f"{path}: sha256 {got}, expected {expected}")


# --- block map ------------------------------------------------------------------------------------------------


def check_block_map(image: Path, block_map: Path) -> None:
    """ImageError unless the map (bmap 2.0) describes the unpacked image, and all blocks outside it are zeros."""
    size, block, ranges = _read_map(block_map)
    place = 0
    with unpacked(image) as stream:
        for first, last, expected in ranges:
            start, end = first * block, min((last + 1) * block, size)
            if start < place or end <= start:
                raise ImageError(f"{block_map}: range {first}-{last} is out of order or outside the image")
            if any(chunk.count(0) != len(chunk) for chunk in _take(stream, start - place, image)):
                raise ImageError(f"{image}: holds something in the blocks before {first}, which the block map calls empty")
            digest = hashlib.sha256()
            for chunk in _take(stream, end - start, image):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise ImageError(
                    f"{image}: blocks {first}-{last} have sha256 {digest.hexdigest()}, the block map says {expected}"
                )
            place = end
        if any(chunk.count(0) != len(chunk) for chunk in _take(stream, size - place, image)):
            raise ImageError(f"{image}: holds something after its last mapped block")
        if stream.read(1):
            raise ImageError(f"{image}: is larger than the {size} bytes that the block map says")


def _read_map(path: Path) -> tuple[int, int, list[tuple[int, int, str]]]:
    """Size, block size and ranges of a map whose own checksum holds."""
    if path.stat().st_size > _MAP_MOST:
        raise ImageError(f"{path}: too large for a block map")
    data = path.read_bytes()
    own = _CHECKSUM.search(data)
    if own is None:
        raise ImageError(f"{path}: not a block map")
    if hashlib.sha256(data[: own.start(1)] + b"0" * 64 + data[own.end(1) :]).hexdigest().encode() != own[1]:
        raise ImageError(f"{path}: its own checksum does not hold")
    # No XML parser: the map comes from outside, and these few elements are all that it has.
    size, block = _number(data, b"ImageSize", path), _number(data, b"BlockSize", path)
    ranges = [(int(row[2]), int(row[3] or row[2]), row[1].decode()) for row in _RANGE.finditer(data)]
    if data.count(b"<Range") != len(ranges):
        raise ImageError(f"{path}: not a block map: a range has no checksum or no numbers")
    if block == 0:
        raise ImageError(f"{path}: not a block map: size {size}, blocks of {block} bytes")
    return size, block, ranges


def _number(data: bytes, name: bytes, path: Path) -> int:
    found = re.findall(rb"<%b>\s*(\d{1,18})\s*</%b>" % (name, name), data)
    if len(found) != 1:
        raise ImageError(f"{path}: not a block map: {name.decode()} is there {len(found)} times")
    return int(found[0])


def _take(stream: IO[bytes], count: int, image: Path) -> Iterator[bytes]:
    while count > 0:
        chunk = stream.read(min(count, _CHUNK))
        if not chunk:
            raise ImageError(f"{image}: ends {count} bytes before the block map does")
        count -= len(chunk)
        yield chunk


@contextmanager
def unpacked(image: Path) -> Iterator[IO[bytes]]:
    """The bytes of an image, decompressed on the way. Raises ImageError if it cannot be."""
    try:
        if image.suffix == ".zst":
            with _zstd(image) as packed:
                yield packed
        elif image.suffix == ".xz":
            with lzma.open(image) as stream:
                yield cast("IO[bytes]", stream)
        else:
            with image.open("rb") as plain:
                yield plain
    except (lzma.LZMAError, EOFError) as error:
        raise ImageError(f"{image}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror or error}") from error


@contextmanager
def _zstd(image: Path) -> Iterator[IO[bytes]]:
    argv = ("zstd", "-q", "-d", "-c", "--", str(image))
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ImageError(f"{image}: zstd is not installed, which unpacks it for its block map") from error
    with child:
        assert child.stdout is not None  # noqa: S101  (it is a pipe)
        try:
            yield child.stdout
            child.stdout.read()
            if child.wait() != 0:
                raise ImageError(f"{image}: cannot be unpacked: zstd ended with exit status {child.returncode}")
        finally:
            child.kill()


def key_of(text: str) -> PublicKey:
    """A key as `--key` has it: the path of a key file, or the one line of a key. Raises SignatureError."""
    path = Path(text)
    return parse_public_key(read_small(path) if path.is_file() else text.encode(), text)
