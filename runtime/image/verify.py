# SPDX-License-Identifier: Apache-2.0
"""Check with public keys alone that an image is what its makers signed, before it is written anywhere.

An image has a signature of its own beside it, or is listed in a signed SHA256SUMS, or both; everything that is there
must verify. A block map beside it must describe the image to the last block, the empty ones included.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import streams
from tower.base.errors import printable
from tower.base.files import is_file, look
from tower.base.refused import in_our_words
from tower.base.regular import open_regular
from tower.image import blockmap
from tower.image.minisign import SUFFIX, PublicKey, SignatureError, parse_public_key, read_public_key, read_small, signer_of
from tower.image.unpack import unpacked

SUMS: Final = "SHA256SUMS"
MANIFEST: Final = ".manifest.json"
KEY_FOLDERS: Final = (Path("/etc/tower/keys"), Path("~/.local/tower/keys"))
"""The folders of public keys of trusted makers of images, as *.pub."""
_SUM_LINE: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+-]*)")
_CHUNK: Final = 1 << 20


class ImageError(SignatureError):
    """An image is not what it should be: what, expected and got."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for a good image."""

    signer: PublicKey
    release: Mapping[str, str]
    """The fields of the trusted comment: version, channel."""
    checks: tuple[str, ...]


def trusted_keys(folders: Iterable[Path] = KEY_FOLDERS) -> tuple[PublicKey, ...]:
    """Return the keys in the folders of this system and this user, each once.

    A file that holds no key of minisign is left out with a warning: the others are trusted all the same.
    """
    found: list[PublicKey] = []
    for folder in folders:
        try:
            place = folder.expanduser()
            paths = sorted(path for path in place.iterdir() if path.name.endswith(".pub"))
        except (FileNotFoundError, RuntimeError):  # RuntimeError: this user has no home
            continue
        except OSError as error:
            _warn(f"{folder}: its keys are ignored: {error.strerror}")
            continue
        for path in paths:
            try:
                found.append(read_public_key(path))
            except SignatureError as error:
                _warn(f"this key is ignored: {error.message}")
    return tuple(dict.fromkeys(found))


def _warn(text: str) -> None:
    streams.note(f"warning: {printable(text)}\n")


def verify_image(path: Path, keys: Iterable[PublicKey]) -> Verified:
    """Check an image against everything that lies beside it. Raises SignatureError saying what is wrong."""
    known = tuple(keys)
    if not is_file(path, ImageError):
        raise ImageError(f"{path}: no such image")
    own, sums = path.with_name(path.name + SUFFIX), path.with_name(SUMS)
    found: list[tuple[PublicKey, dict[str, str], str]] = []
    if look(own, ImageError):
        found.append((*_signed(path, path.name, known), "signature"))
    # A SHA256SUMS that is not signed and does not name the image belongs to something else.
    if look(sums, ImageError) and (look(sums.with_name(SUMS + SUFFIX), ImageError) or path.name.encode() in read_small(sums)):
        signer, said = _signed(sums, SUMS, known)
        listed = parse_sums(read_small(sums), str(sums))
        if path.name in listed:
            check_sum(path, listed[path.name])
            manifest = path.with_name(path.name + MANIFEST)
            if look(manifest, ImageError) and manifest.name in listed:
                check_sum(manifest, listed[manifest.name])
            found.append((signer, said, SUMS))
    if not found:
        raise ImageError(f"{path}: is not signed: there is neither {own.name} nor a signed {SUMS} that names it")
    if len({tuple(sorted(said.items())) for _, said, _ in found}) > 1:
        raise ImageError(f"{path}: its signature and {SUMS} are of different releases")
    checks = [what for _, _, what in found]
    block_map = path.with_name(f"{path.name}.bmap")
    if look(block_map, ImageError):
        check_block_map(path, block_map)
        checks.append("block map")
    return Verified(found[0][0], found[0][1], tuple(checks))


def _signed(path: Path, name: str, keys: tuple[PublicKey, ...]) -> tuple[PublicKey, dict[str, str]]:
    """Return the key and the release of a signed file, whose signature must be for this name."""
    signer, signature = signer_of(path, keys)
    said = read_comment(signature.trusted_comment, str(path))
    if said.pop("file") != name:
        raise ImageError(f"{path}: its signature is for a file with another name: {signature.trusted_comment!r}")
    return signer, said


def comment_of(name: str, version: str, channel: str) -> str:
    """Return the trusted comment for a file of a release."""
    return f"file:{name}\tversion:{version}\tchannel:{channel}"


def read_comment(text: str, where: str) -> dict[str, str]:
    """Parse what `comment_of` makes. Raises ImageError for any other comment."""
    rows = dict(word.partition(":")[::2] for word in text.split("\t"))
    if list(rows) != ["file", "version", "channel"] or comment_of(*rows.values()) != text:
        raise ImageError(f"{where}: its trusted comment {text!r} is not that of a file of a release")
    return rows


# --- SHA256SUMS -----------------------------------------------------------------------------------------------


def parse_sums(data: bytes, where: str) -> dict[str, str]:
    """Parse a SHA256SUMS (file name -> SHA-256): plain names, sorted, each once. Raises ImageError."""
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
    """Return the text of a SHA256SUMS."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with in_our_words(path, kind=ImageError), open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sum(path: Path, expected: str) -> None:
    """Raise ImageError unless the file has this SHA-256."""
    got = sha256_of(path)
    if got != expected:
        raise ImageError(f"{path}: sha256 {got}, expected {expected}")


# --- block map ------------------------------------------------------------------------------------------------


def check_block_map(image: Path, block_map: Path) -> None:
    """Raise ImageProblemError unless the map describes the unpacked image, and all blocks outside it are zeros."""
    check = blockmap.MapCheck(blockmap.parse(_read(block_map), str(block_map)), str(image))
    with unpacked(image) as stream:
        while chunk := stream.read(_CHUNK):
            check.feed(memoryview(chunk))
    check.finish()


def _read(path: Path) -> bytes:
    with in_our_words(path, kind=ImageError), open_regular(path) as stream:
        return stream.read(blockmap.MOST + 1)


def key_of(text: str) -> PublicKey:
    """Return a key that `--key` names: the path of a key file, or the line of a key. Raises SignatureError."""
    path, longest = Path(text), 255  # the most bytes of a file name; the system refuses longer ones
    named = ("/" in text or len(os.fsencode(text)) <= longest) and is_file(path, SignatureError)
    return read_public_key(path) if named else parse_public_key(os.fsencode(text), text)
