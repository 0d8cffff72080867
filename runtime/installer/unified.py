# SPDX-License-Identifier: Apache-2.0
"""One file that firmware starts by UEFI, and that is signed as a whole: a start ("stub"), command line, initramfs and kernel.

It is a program in the PE format. The start comes from a package; everything else is appended to it as sections, which it finds
by their names: https://uapi-group.org/specifications/specs/unified_kernel_image/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from tower.base.errors import ImageProblemError

_PE_AT: Final = 0x3C
_COFF: Final = struct.Struct("<4s HHIIIHH")
_SECTION: Final = struct.Struct("<8s IIII IIHHI")
_PE32_PLUS: Final = 0x20B
# Places in the optional header.
_DATA_SIZE, _ALIGNMENTS, _IMAGE_SIZE, _HEADERS_SIZE, _CHECKSUM, _CERTIFICATES = 8, 32, 56, 60, 64, 112 + 4 * 8
_LEAST_OPTIONAL: Final = _CERTIFICATES + 8
_DATA: Final = 0x40000040
"""What a section is: data, to be read."""


def unified_image(stub: bytes, sections: Mapping[str, bytes], where: str) -> bytes:
    """Return a start with sections behind it, in their order. Raises ImageProblemError if `stub` is none."""
    try:
        return _append(bytearray(stub), sections)
    except (struct.error, ValueError, IndexError) as error:
        raise ImageProblemError(f"{where}: cannot start a kernel by UEFI: {error}", hint="is its package damaged?") from None


def _append(image: bytearray, sections: Mapping[str, bytes]) -> bytes:
    (pe,) = struct.unpack_from("<I", image, _PE_AT)
    magic, _, count, _, _, _, optional_size, _ = _COFF.unpack_from(image, pe)
    optional = pe + _COFF.size
    if image[:2] != b"MZ" or magic != b"PE\0\0" or optional_size < _LEAST_OPTIONAL:
        raise ValueError("it is no program of 64 bits in the PE format")
    if struct.unpack_from("<H", image, optional)[0] != _PE32_PLUS or struct.unpack_from("<Q", image, optional + _CERTIFICATES)[0]:
        raise ValueError("it is no unsigned program of 64 bits in the PE format")
    in_memory, in_file = struct.unpack_from("<II", image, optional + _ALIGNMENTS)
    (headers_size,) = struct.unpack_from("<I", image, optional + _HEADERS_SIZE)
    table = optional + optional_size
    if not in_memory or not in_file or table + (count + len(sections)) * _SECTION.size > headers_size:
        raise ValueError(f"it has no room for {len(sections)} more sections")
    last = [_SECTION.unpack_from(image, table + at * _SECTION.size) for at in range(count)]
    if {name.rstrip(b"\0").decode(errors="replace") for name, *_ in last} & sections.keys():
        raise ValueError("it has one of the sections already")
    address = max(_up(at + max(size, raw), in_memory) for _, size, at, raw, *_ in last)
    out, added = bytearray(image), 0
    for number, (name, data) in enumerate(sections.items(), count):
        out += bytes(_up(len(out), in_file) - len(out))
        row = (name.encode(), len(data), address, _up(len(data), in_file), len(out), 0, 0, 0, 0, _DATA)
        _SECTION.pack_into(out, table + number * _SECTION.size, *row)
        out += data + bytes(_up(len(data), in_file) - len(data))
        address, added = _up(address + max(len(data), 1), in_memory), added + _up(len(data), in_file)
    struct.pack_into("<H", out, pe + 6, count + len(sections))
    (before,) = struct.unpack_from("<I", out, optional + _DATA_SIZE)
    struct.pack_into("<I", out, optional + _DATA_SIZE, before + added)
    struct.pack_into("<I", out, optional + _IMAGE_SIZE, address)
    struct.pack_into("<I", out, optional + _CHECKSUM, 0)
    return bytes(out)


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
