# SPDX-License-Identifier: Apache-2.0
"""The data of one ELF file: its machine, its interpreter, the libraries that it needs and where it looks for them."""

from __future__ import annotations

import lzma
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pipeline.base.errors import FormatError

MAGIC: Final = b"\x7fELF"
HEAD: Final = 4096
"""The number of bytes that show whether a file is an ELF file, or a compressed one."""
MACHINES: Final = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_NUMBERS: Final = {3: "EM_386", 40: "EM_ARM", 62: "EM_X86_64", 183: "EM_AARCH64", 243: "EM_RISCV", 247: "EM_BPF"}
_OBJECT: Final = 1
_DAMAGE: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error)
"""The exceptions of pyelftools for a damaged file, beside its own errors."""


@dataclass(frozen=True, slots=True)
class Elf:
    """One ELF file. `machine` is named as in <elf.h>, such as EM_X86_64."""

    machine: str
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    soname: str = ""
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    is_object: bool = False
    """Not linked: a kernel module, a .o file."""


def elf_head(head: bytes) -> bytes:
    """Return the first bytes of an ELF file, unpacked if it is compressed (as kernel modules are); b"" if it is none."""
    try:
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(wbits=31).decompress(head, 64)
        elif head.startswith(b"\xfd7zXZ\0"):
            head = lzma.LZMADecompressor().decompress(head, 64)
    except (zlib.error, lzma.LZMAError):
        return b""
    return head if head.startswith(MAGIC) and len(head) >= 20 else b""


def machine_of(head: bytes) -> str:
    """Return the machine of an ELF file, from its first 20 bytes."""
    number = struct.unpack_from("<H" if head[5] != 2 else ">H", head, 18)[0]
    return _NUMBERS.get(number, f"machine {number}")


def is_object(head: bytes) -> bool:
    """Tell whether it is not linked yet."""
    return bool(struct.unpack_from("<H" if head[5] != 2 else ">H", head, 16)[0] == _OBJECT)


def read_elf(data: bytes, where: str) -> Elf:
    """Read a whole ELF file. Raises FormatError naming `where` if it is damaged."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    machine = machine_of(data)
    if is_object(data):
        return Elf(machine, is_object=True)
    interpreter, soname = "", ""
    found: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    try:
        for segment in ELFFile(BytesIO(data)).iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = str(segment.get_interp_name())
            elif isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags():
                    if tag.entry.d_tag in found:
                        found[tag.entry.d_tag].append(str(getattr(tag, tag.entry.d_tag.removeprefix("DT_").lower())))
                    elif tag.entry.d_tag == "DT_SONAME":
                        soname = str(getattr(tag, "soname"))  # noqa: B009  (pyelftools sets it by the type of the entry)
    except (ELFError, ConstructError, *_DAMAGE) as error:
        raise FormatError(f"{where}: its ELF structure is damaged: {error}") from error
    paths = {name: tuple(part for text in found[name] for part in text.split(":") if part) for name in ("DT_RPATH", "DT_RUNPATH")}
    # A DT_RPATH beside a DT_RUNPATH is ignored.
    rpath = () if paths["DT_RUNPATH"] else paths["DT_RPATH"]
    return Elf(machine, interpreter, tuple(found["DT_NEEDED"]), soname, rpath, paths["DT_RUNPATH"])
