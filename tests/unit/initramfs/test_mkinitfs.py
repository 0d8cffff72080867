# SPDX-License-Identifier: Apache-2.0
"""mkinitfs of the lab: libraries and modules a feature needs, inside a root of any architecture."""

from __future__ import annotations

import importlib
import io
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unit

PACKAGE = Path(__file__).parents[3] / "pipeline/lab/packages/mkinitfs/root"
DATA = PACKAGE / "usr/share/mkinitfs"
RELEASE = "6.12.1-lab"
AARCH64, X86_64 = 183, 62


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))


def module(name: str) -> Any:
    return importlib.import_module(f"initfs.{name}")


def elf(needed: tuple[str, ...] = (), interpreter: str = "", runpath: str = "", machine: int = AARCH64) -> bytes:
    """The least of an ELF file that names what it needs."""
    strings = b"\0"
    dynamic = b""
    for tag, text in [*((1, name) for name in needed), *(((29, runpath),) if runpath else ())]:
        dynamic += struct.pack("<qQ", tag, len(strings))
        strings += text.encode() + b"\0"
    head, count = 64, 3
    at_interp = head + 56 * count
    interp = interpreter.encode() + b"\0"
    at_strings = at_interp + len(interp)
    at_dynamic = at_strings + len(strings)
    dynamic += struct.pack("<qQ", 5, 0x1000 + at_strings) + struct.pack("<qQ", 0, 0)
    segments = (
        struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0, at_dynamic, at_dynamic, 1)
        + struct.pack("<IIQQQQQQ", 3 if interpreter else 6, 4, at_interp, 0, 0, len(interp), len(interp), 1)
        + struct.pack("<IIQQQQQQ", 2, 4, at_dynamic, 0, 0, len(dynamic), len(dynamic), 8)
    )
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, head, 0, 0, 64, 56, count, 0, 0, 0)
    return header + segments + interp + strings + dynamic


def put(root: Path, path: str, data: bytes | str = b"", mode: int = 0o644) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data.encode() if isinstance(data, str) else data)
    place.chmod(mode)
    return place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A merged root of another architecture with a program, its libraries and three modules."""
    base = tmp_path / "root"
    for name in ("bin", "sbin", "lib"):
        (base / "usr" / name).mkdir(parents=True)
        (base / name).symlink_to(f"usr/{name}")
    put(base, "usr/lib/ld-linux-aarch64.so.1", elf())
    put(base, "usr/lib/aarch64-linux-gnu/libone.so.1.5", elf(("libtwo.so",)))
    (base / "usr/lib/aarch64-linux-gnu/libone.so.1").symlink_to("libone.so.1.5")
    put(base, "usr/lib/own/libtwo.so", elf())
    put(base, "usr/lib/libtwo.so", elf(machine=X86_64))
    put(base, "usr/bin/tool", elf(("libone.so.1",), "/lib/ld-linux-aarch64.so.1", "$ORIGIN/../lib/own"), 0o755)
    (base / "usr/sbin/tool").symlink_to("/bin/tool")
    put(base, "etc/keys/a.conf", "a")
    put(base, "etc/apk/keys/lab.rsa.pub", "key")
    modules = base / "usr/lib/modules" / RELEASE
    put(modules, "kernel/fs/one.ko.xz", lzma.compress(b"\x7fELF one\0firmware=chip/fw.bin\0"))
    put(modules, "kernel/lib/two.ko", b"\x7fELF two")
    put(modules, "kernel/lib/soft-three.ko", b"\x7fELF three")
    put(modules, "kernel/lib/other.ko", b"\x7fELF other")
    dep = "kernel/fs/one.ko.xz: kernel/lib/two.ko\nkernel/lib/two.ko:\nkernel/lib/soft-three.ko:\nkernel/lib/other.ko:\n"
    put(modules, "modules.dep", dep)
    put(modules, "modules.alias", "# Aliases\nalias fs-one one\nalias pci:v1* other\n")
    put(modules, "modules.softdep", "# Soft\nsoftdep one pre: soft-three\n")
    put(base, "usr/lib/firmware/chip/fw-2.bin", "fw")
    (base / "usr/lib/firmware/chip/fw.bin").symlink_to("fw-2.bin")
    put(base, "etc/mkinitfs/features.d/small.files", "# a comment\n/sbin/tool\n/etc/keys\n")
    put(base, "etc/mkinitfs/features.d/small.modules", "kernel/fs\n")
    return base


def mkinitfs(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "DATADIR": str(DATA), "SYSCONFDIR": str(root / "etc/mkinitfs"), **environment}
    argv = [sys.executable, str(PACKAGE / "usr/sbin/mkinitfs"), "-b", str(root), *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)


def names(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, content) of a cpio archive; owner and order are checked on the way."""
    found: dict[str, tuple[int, bytes]] = {}
    stream = io.BytesIO(archive)
    while True:
        head = stream.read(110)
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * at : 14 + 8 * at], 16) for at in range(13)]
        name = stream.read(fields[11])[:-1].decode()
        stream.read(-stream.tell() % 4)
        data = stream.read(fields[6])
        stream.read(-stream.tell() % 4)
        if name == "TRAILER!!!":
            return found
        assert fields[2:4] == [0, 0]
        assert not found or name > max(found)
        found[name] = (fields[1], data)


def test_libraries_of_another_architecture(root: Path) -> None:
    closure = module("elf").Closure(module("root").RootTree(str(root)))
    closure.add("sbin/tool")
    assert closure.files == {
        "usr/bin/tool",
        "usr/lib/ld-linux-aarch64.so.1",
        "usr/lib/aarch64-linux-gnu/libone.so.1.5",
    }
    assert {"usr/sbin/tool", "usr/lib/aarch64-linux-gnu/libone.so.1"} <= closure.links
    # libtwo.so is beside another program's own libraries, and the one in /usr/lib is of another machine.
    assert closure.missing == ["libtwo.so (for /usr/lib/aarch64-linux-gnu/libone.so.1.5)"]


def test_a_library_in_the_run_path(root: Path) -> None:
    put(root, "usr/bin/other", elf(("libtwo.so",), "", "$ORIGIN/../lib/own"))
    closure = module("elf").Closure(module("root").RootTree(str(root)))
    closure.add("/bin/other")
    assert "usr/lib/own/libtwo.so" in closure.files
    assert closure.missing == []


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fEL"])
def test_other_files_need_nothing(tmp_path: Path, data: bytes) -> None:
    assert module("elf").read_needs(put(tmp_path, "file", data)) is None


@pytest.mark.parametrize("cut", [30, 100, -40])
def test_a_damaged_program_is_named(tmp_path: Path, cut: int) -> None:
    path = put(tmp_path, "tool", elf(("libone.so.1",), "/lib/ld.so")[:cut])
    with pytest.raises(SystemExit, match="tool: damaged ELF file"):
        module("elf").read_needs(path)


def test_links_that_lead_in_a_circle(root: Path) -> None:
    (root / "usr/bin/a").symlink_to("b")
    (root / "usr/bin/b").symlink_to("/bin/a")
    with pytest.raises(SystemExit, match="too many links"):
        module("root").RootTree(str(root)).resolve("bin/a")


def test_links_never_lead_out_of_the_root(root: Path) -> None:
    (root / "usr/bin/out").symlink_to("../../../../etc/passwd")
    assert module("root").RootTree(str(root)).resolve("bin/out")[0] == "etc/passwd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('features="a b"\n', {"features": "a b"}),
        ("# features=x\ninitfscomp=zstd # fast\n", {"initfscomp": "zstd"}),
        ("disable_trigger='yes'\nnot an assignment\n", {"disable_trigger": "yes"}),
        ("", {}),
    ],
)
def test_configuration(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    assert module("features").read_config(put(tmp_path, "mkinitfs.conf", text)) == expected


def test_archive_of_a_feature(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "initramfs"
    result = mkinitfs(root, "-C", "none", "-F", "small", "-o", str(out), RELEASE)
    assert result.returncode == 0, result.stderr
    found = names(out.read_bytes())
    modules = f"usr/lib/modules/{RELEASE}"
    assert found["init"][0] == 0o100755
    assert found["bin"][1] == b"usr/bin"
    assert found["usr/sbin/tool"][1] == b"/bin/tool"
    assert found["etc/keys/a.conf"][1] == b"a"
    assert found["etc/apk/keys/lab.rsa.pub"][1] == b"key"
    assert found[f"{modules}/kernel/fs/one.ko"][1].startswith(b"\x7fELF one")
    assert f"{modules}/kernel/lib/soft-three.ko" in found
    assert f"{modules}/kernel/lib/other.ko" not in found
    assert b"one.ko: kernel/lib/two.ko\n" in found[f"{modules}/modules.dep"][1]
    assert found[f"{modules}/modules.alias"][1] == b"alias fs-one one\n"
    assert found["usr/lib/firmware/chip/fw.bin"][1] == b"fw-2.bin"
    assert found["usr/lib/firmware/chip/fw-2.bin"][1] == b"fw"
    assert found["dev/console"][0] == 0o020600
    assert "libtwo.so" in result.stderr


@pytest.mark.parametrize("method", ["none", "gzip", "xz"])
def test_same_bytes_whatever_the_time_and_umask(root: Path, tmp_path: Path, method: str) -> None:
    made = []
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            out = tmp_path / f"out-{umask}"
            result = mkinitfs(root, "-C", method, "-F", "small", "-o", str(out), RELEASE, SOURCE_DATE_EPOCH="1700000000")
        finally:
            os.umask(before)
        assert result.returncode == 0, result.stderr
        made.append(out.read_bytes())
        for path in root.rglob("*"):
            os.utime(path, (1, 1), follow_symlinks=False)
    assert made[0] == made[1]


def test_listing_writes_nothing(root: Path) -> None:
    result = mkinitfs(root, "-l", "-n", "-F", "small")
    assert result.returncode == 0
    assert "usr/bin/tool" in result.stdout.splitlines()
    assert not (root / "boot").exists()


def test_own_features_win(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "mine/small.files", "/etc/keys/a.conf\n")
    result = mkinitfs(root, "-l", "-n", "-F", "small", "-P", str(tmp_path / "mine"))
    assert "etc/keys/a.conf" in result.stdout.splitlines()
    assert "usr/bin/tool" not in result.stdout.splitlines()


def test_features_are_listed(root: Path) -> None:
    assert mkinitfs(root, "-L", "-n").stdout.splitlines() == ["small"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-F", "small", "9.9"), "there are no modules of the kernel 9.9"),
        (("-C", "lzo", "-n"), "compression lzo is not known"),
        (("-n", "-i", "/nowhere/init"), "/nowhere/init does not exist"),
    ],
)
def test_mistakes(root: Path, arguments: tuple[str, ...], message: str) -> None:
    result = mkinitfs(root, *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failing_run_keeps_the_old_initramfs(root: Path, tmp_path: Path) -> None:
    out = put(tmp_path, "initramfs", "old")
    assert mkinitfs(root, "-C", "none", "-F", "small", "-o", str(out), "9.9").returncode == 1
    assert out.read_text() == "old"
