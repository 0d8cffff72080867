# SPDX-License-Identifier: Apache-2.0
"""Find what a package provides and needs in its own files, as abuild does: libraries, `cmd:` and `pc:`.

A library provides `gnu:<soname>=<version in its file name>`; a program or library needs the sonames it was linked with.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from pipeline.base.errors import FormatError
from pipeline.channels.lab.beside import SONAME
from pipeline.channels.lab.package_tree import PackageTree

_ELF_MAGIC = b"\x7fELF"
_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_COMMANDS = frozenset({"usr/bin", "usr/sbin", "bin", "sbin"})
_LIBRARY = re.compile(r"lib[^/]*\.so(\.[^/]*)?|ld-[^/]*\.so(\.[^/]*)?")
_PC_FOLDERS = re.compile(r"usr/(lib|share)/(.*/)?pkgconfig/[^/]+\.pc")
_MAX_PC = 1 << 20
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Scan:
    """Provides with versions, and needs; both sorted."""

    provides: tuple[str, ...]
    depends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Elf:
    soname: str
    needed: tuple[str, ...]


def scan(tree: PackageTree, arch: str, version: str) -> Scan:
    """Examine every file of `tree`; files of another architecture than `arch` count as data.

    Libraries are `gnu:<soname>`, since `so:<soname>` is the library of that name in Alpine's own packages.
    """
    provides: dict[str, str] = {}
    needs: set[str] = set()
    for node in tree.files():
        content = tree.content(node.path)
        elf = _read_elf(content, arch)
        if elf is not None:
            needs.update(f"{SONAME}{name}" for name in elf.needed)
            if elf.soname and _LIBRARY.fullmatch(elf.soname):
                provides[f"{SONAME}{elf.soname}"] = _library_version(PurePosixPath(node.path).name)
        elif _PC_FOLDERS.fullmatch(node.path):
            provided, wanted = _read_pc(content, node.path)
            provides[f"pc:{PurePosixPath(node.path).stem}"] = provided
            needs |= wanted
    for path in _commands(tree):
        provides[f"cmd:{PurePosixPath(path).name}"] = version
    return Scan(
        tuple(f"{name}={value}" for name, value in sorted(provides.items())),
        tuple(sorted(need for need in needs if re.split("[<>=~]", need, maxsplit=1)[0] not in provides)),
    )


def _read_elf(content: bytes, arch: str) -> _Elf | None:
    if not content.startswith(_ELF_MAGIC):
        return None
    try:
        elf = ELFFile(io.BytesIO(content))
        dynamic = elf.get_section_by_name(".dynamic")
        if elf["e_machine"] != _MACHINES[arch] or not isinstance(dynamic, DynamicSection):
            return None
        soname, needed = "", []
        for tag in dynamic.iter_tags():
            if tag.entry.d_tag == "DT_NEEDED":
                needed.append(_text(tag))
            elif tag.entry.d_tag == "DT_SONAME":
                soname = _text(tag)
    except (ELFError, ValueError, KeyError, UnicodeDecodeError, AttributeError):
        # A damaged or odd object counts as data: it provides and needs nothing.
        return None
    return _Elf(soname, tuple(needed))


def _text(tag: Any) -> str:
    """Return the string of a DT_NEEDED or DT_SONAME entry; pyelftools names the attribute after the entry's type."""
    return str(tag.needed if tag.entry.d_tag == "DT_NEEDED" else tag.soname)


def _library_version(name: str) -> str:
    """Return the numbers after `.so.`, or 0: libfoo.so.1.2.3 gives 1.2.3."""
    match = re.search(r"\.so\.(\d+(?:\.\d+)*)$", name)
    return match[1] if match else "0"


def _read_pc(data: bytes, path: str) -> tuple[str, set[str]]:
    """Return the version and the requirements of a pkg-config file, these as `pc:` dependencies."""
    if len(data) > _MAX_PC:
        raise FormatError(f"{path}: {len(data)} bytes, {_MAX_PC} are allowed in a file of pkg-config")
    text = data.decode(errors="replace")
    variables = dict(re.findall(r"^(\w[\w.]*)[ \t]*=[ \t]*(.*?)[ \t]*$", text, flags=re.MULTILINE))
    fields = dict(re.findall(r"^(\w[\w.]*)[ \t]*:[ \t]*(.*?)[ \t]*$", text, flags=re.MULTILINE))

    def expand(value: str) -> str:
        for _ in range(_MAX_LINKS):
            value, count = re.subn(r"\$\{([\w.]+)\}", lambda match: variables.get(match[1], ""), value)
            if not count:
                return value
        raise FormatError(f"{path}: its variables name one another more than {_MAX_LINKS} times")

    required = expand(f"{fields.get('Requires', '')},{fields.get('Requires.private', '')}")
    wanted = re.findall(r"([A-Za-z0-9][\w.+-]*)(?:\s*(<=|>=|=|<|>)\s*([\w.]+))?", required)
    version = re.match(r"\d+(?:\.\d+)*", expand(fields.get("Version", "")))
    return (version[0] if version else "0"), {f"pc:{name}{operator}{wanted_version}" for name, operator, wanted_version in wanted}


def _commands(tree: PackageTree) -> list[str]:
    """Return the programs in the command folders: executable files, and links (alternatives end outside the package)."""
    inside = [node for node in tree.nodes.values() if str(PurePosixPath(node.path).parent) in _COMMANDS]
    return [node.path for node in inside if node.kind == "link" or (node.kind == "file" and node.mode & 0o111)]
