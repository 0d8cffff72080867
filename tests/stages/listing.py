# SPDX-License-Identifier: Apache-2.0
"""The tree of what a stage made, as lines: type, mode, owner, name, link target, and content where it is short.

Archives, file systems and images are looked into, with the tools that are at hand for each: tarfile, zipfile, debugfs,
mtools, sfdisk, xorriso, unsquashfs, cpio. Times are no part of it: what stages make has the channel's epoch.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

_SHORT = 1000
# What hangs on the builder's own files, or on the key that the tests make, says nothing about the stage.
_CHANGING = (
    (re.compile(r"\bQ1[A-Za-z0-9+/]{27}="), "Q1..."),
    (re.compile(r"\.X1[0-9a-f]{40}\."), ".X1...."),
    (re.compile(r"^(datahash|size) = .*"), r"\1 = ..."),
    (re.compile(r"^Generator: .*"), "Generator: ..."),
    (re.compile(r"/WHEEL,sha256=.*"), "/WHEEL,sha256=..."),
)
_ZSTD = b"\x28\xb5\x2f\xfd"


def listing(folder: Path) -> list[str]:
    """Everything below `folder`, sorted by name; what is packed is listed below the line of its file."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        lines += _entry(stat.filemode(status.st_mode), "", name, target, content)
    return lines


def _entry(mode: str, owner: str, name: str, target: str, content: bytes) -> list[str]:
    head = " ".join(filter(None, [mode, owner, _masked(_plain(name)), f"-> {_plain(target)}" if target else ""]))
    if not mode.startswith("-"):
        return [head]
    return [head, *(f"    {line}" for line in _inside(name, content))]


def _plain(text: str) -> str:
    """A name with its control characters and what is no text made visible."""
    return text.encode("unicode_escape" if not text.isprintable() else "utf-8", "backslashreplace").decode()


def _inside(name: str, content: bytes) -> list[str]:
    """What a file holds: the lines of a short text, the tree of an archive or file system, else only that it has content."""
    for fits, look in _READERS:
        if fits(name, content):
            return list(look(content))
    if not content:
        return ["(empty)"]
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return ["(binary)"]
    if len(text) > _SHORT or not all(letter.isprintable() or letter in "\n\t" for letter in text):
        return ["(long text)" if len(text) > _SHORT else "(binary)"]
    return [f"| {_masked(line)}".rstrip() for line in text.splitlines()]


def _masked(line: str) -> str:
    for pattern, shown in _CHANGING:
        line = pattern.sub(shown, line)
    return line


def _packages(content: bytes) -> Iterator[str]:
    """Of an index or a database of apk: the packages' names, versions and needs."""
    yield from (f"| {line}" for line in content.decode().splitlines() if line[:2] in ("P:", "V:", "A:", "D:"))


def _tool(*argv: str | Path, content: bytes | None = None, folder: Path | None = None) -> str:
    done = subprocess.run(argv, input=content, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, f"{argv}: exit status {done.returncode}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode(errors="backslashreplace")


def _tar(content: bytes) -> Iterator[str]:
    # Packages and indexes are several archives, one after the other.
    with tarfile.open(fileobj=io.BytesIO(content), ignore_zeros=True) as archive:
        for member in archive:
            data = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            kind = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h"}.get(member.type, "-")
            mode = kind + stat.filemode(member.mode)[1:]
            names = f" {member.uname}:{member.gname}" if member.uname or member.gname else ""
            yield from _entry(mode, f"{member.uid}:{member.gid}{names}", member.name, member.linkname, data)


def _gzip(content: bytes) -> Iterator[str]:
    plain = gzip.decompress(content)
    if plain[257:262] == b"ustar":
        yield from _tar(plain)
    elif plain[:6] == b"070701":
        lines = (line.split(maxsplit=8) for line in _tool("cpio", "-itvn", "--quiet", content=plain).splitlines())
        rows = [(words[8], words) for words in lines if len(words) == 9]
        yield from (f"{words[0]} {words[2]}:{words[3]} {name}" for name, words in sorted(rows))
    else:
        yield from _inside("", plain)


def _zip(content: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            yield from _entry(stat.filemode(member.external_attr >> 16), "", member.filename, "", archive.read(member))


def _zstd(content: bytes) -> Iterator[str]:
    plain = subprocess.run(("zstd", "-qdc"), input=content, capture_output=True, check=True).stdout
    yield from _inside("image.img", plain)


def _xz(content: bytes) -> Iterator[str]:
    yield from _inside("image.img", lzma.decompress(content))


def _with_file(look: Callable[[Path], Iterator[str]]) -> Callable[[bytes], Iterator[str]]:
    """A reader for a tool that wants a file."""

    def read(content: bytes) -> Iterator[str]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield from look(Path(file.name))

    return read


def _ext4(file: Path) -> Iterator[str]:
    head = _tool("dumpe2fs", "-h", file)
    for field in ("Filesystem volume name", "Filesystem UUID"):
        yield re.search(rf"^{field}: *(.*)$", head, re.MULTILINE).group(0)  # type: ignore[union-attr]
    waiting = [("/", 2)]
    while waiting:
        folder, inode = waiting.pop(0)
        for row in _tool("debugfs", "-R", f"ls -p <{inode}>", file).splitlines():
            if row.count("/") < 7:
                continue
            _, number, mode, uid, gid, name, *_ = row.split("/")
            if name in (".", "..", "lost+found"):
                continue
            shown = stat.filemode(int(mode, 8))
            target, content = "", b""
            if shown[0] == "l":
                target = re.search('Fast link dest: "(.*)"', _tool("debugfs", "-R", f"stat <{number}>", file)).group(1)  # type: ignore[union-attr]
            elif shown[0] == "-":
                content = subprocess.run(("debugfs", "-R", f"cat <{number}>", file), capture_output=True, check=True).stdout
            elif shown[0] == "d":
                waiting.append((f"{folder}{name}/", int(number)))
            yield from _entry(shown, f"{uid}:{gid}", folder + name, target, content)


def _fat(file: Path) -> Iterator[str]:
    yield from (line.strip() for line in _tool("mlabel", "-s", "-i", file, "::").splitlines())
    for name in sorted(line.removeprefix("::") for line in _tool("mdir", "-i", file, "-/", "-b", "::").splitlines() if line):
        if name.endswith("/"):
            yield f"d {name}"
        else:
            content = subprocess.run(("mcopy", "-i", file, f"::{name}", "-"), capture_output=True, check=True).stdout
            yield from _entry("-", "", name, "", content)


def _disk(file: Path) -> Iterator[str]:
    for line in _tool("sfdisk", "--dump", file).splitlines():
        if line and not line.startswith("device"):
            # It puts a p before the number if the name ends with a digit.
            yield re.sub(r" +", " ", re.sub(rf"{re.escape(str(file))}p?", "image", line))


def _iso(file: Path) -> Iterator[str]:
    yield re.search("Volume [Ii]d *: (.*)", _tool("xorriso", "-indev", file, "-pvd_info")).group(0)  # type: ignore[union-attr]
    rows = _tool("xorriso", "-indev", file, "-find", "/", "-sort_lba", "-exec", "lsdl", "--").splitlines()
    entries = sorted((row.split(maxsplit=8)[8], row.split(maxsplit=8)) for row in rows if row[:1] in "dl-")
    with tempfile.TemporaryDirectory() as folder:
        _tool("xorriso", "-osirrox", "on", "-indev", file, "-extract", "/", f"{folder}/tree")
        for quoted, words in entries:
            name, _, target = quoted.partition(" -> ")
            name, target = name.strip("'"), target.strip("'")
            content = Path(f"{folder}/tree{name}").read_bytes() if words[0].startswith("-") else b""
            yield from _entry(words[0], f"{words[2]}:{words[3]}", name, target, content)


def _squashfs(file: Path) -> Iterator[str]:
    for line in _tool("unsquashfs", "-lln", "-d", "", file).splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6:
            yield f"{words[0]} {words[1]} {words[5]}"


_READERS: tuple[tuple[Callable[[str, bytes], bool], Callable[[bytes], Iterator[str]]], ...] = (
    (lambda _, content: content[:2] == b"\x1f\x8b", _gzip),
    (lambda name, _: name.endswith(".tar"), _tar),
    (lambda name, _: name == "APKINDEX" or name.endswith("apk/db/installed"), _packages),
    (lambda name, _: name.endswith(".pub"), lambda _: iter(["(a key)"])),
    (lambda name, _: name.endswith(".whl"), _zip),
    (lambda _, content: content[:4] == _ZSTD, _zstd),
    (lambda _, content: content[:6] == b"\xfd7zXZ\0", _xz),
    (lambda _, content: content[:4] == b"hsqs", _with_file(_squashfs)),
    (lambda _, content: content[0x8001:0x8006] == b"CD001", _with_file(_iso)),
    (lambda _, content: content[0x438:0x43A] == b"\x53\xef", _with_file(_ext4)),
    (lambda _, content: content[82:87] == b"FAT32" or content[54:57] == b"FAT", _with_file(_fat)),
    (lambda name, content: name.endswith(".img") and content[510:512] == b"\x55\xaa", _with_file(_disk)),
)
