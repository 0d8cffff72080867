# SPDX-License-Identifier: Apache-2.0
"""The audit: ELF files that do and do not find what they need, what is reviewed, and images of all three kinds."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from pipeline.base.errors import ConfigError, FormatError, StageError, VerifyError
from pipeline.cli import inputs
from pipeline.formats.ext4 import Ext4
from pipeline.formats.iso9660 import files as iso_files
from pipeline.images import publish
from pipeline.images.elf.audit import Exempt, Lists, Reviewed, compare, findings, lists_of
from pipeline.images.elf.audit_task import audit_elf
from pipeline.images.elf.binary import elf_head, machine_of, read_elf
from pipeline.images.elf.reviewed import draft, read_reviewed, reviewed_path
from pipeline.images.elf.root_tree import add_tar, ext4_tree, tree_of
from tests.unit.elf.make import ARM, LINKER, Files, elf, parsed, tree
from tests.unit.release.keys import opened

LIBC: Files = {
    "usr/lib/ld-linux-x86-64.so.2": elf(),
    "usr/lib/libc.so.6": elf(soname="libc.so.6"),
    "lib": "usr/lib",
    "lib64": "usr/lib",
}
PROGRAM = elf("libc.so.6", interpreter=LINKER)


def faults(files: Files, arch: str = "x86_64") -> list[str]:
    return [str(finding) for finding in findings(tree(files), arch)]


# --- one file -------------------------------------------------------------------------------------------------


def test_made_by_hand_and_by_a_linker() -> None:
    found = parsed("liba.so.1", "libb.so.2", interpreter=LINKER, soname="me.so", runpath="/opt/a:$ORIGIN/../lib")
    assert (found.machine, found.interpreter, found.needed) == ("EM_X86_64", LINKER, ("liba.so.1", "libb.so.2"))
    assert (found.soname, found.rpath, found.runpath) == ("me.so", (), ("/opt/a", "$ORIGIN/../lib"))
    assert parsed(rpath="/a", runpath="/b").rpath == ()
    real = read_elf(Path("/bin/sh").resolve().read_bytes(), "sh")
    assert real.interpreter.startswith("/lib")
    assert any(name.startswith("libc.") for name in real.needed)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_heads(pack: type[bytes]) -> None:
    data = pack(elf(machine=ARM, kind=1) + bytes(9000))
    assert machine_of(elf_head(data[:4096])) == "EM_AARCH64"
    assert elf_head(pack(b"#!/bin/sh\n")) == b""
    assert elf_head(data[:3]) == b""


def test_damaged() -> None:
    data = elf("libc.so.6", interpreter=LINKER)
    assert tree({"a": data[:100]}).damaged[0].startswith("a: its ELF structure is damaged")
    for place in range(16, len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        try:
            read_elf(bytes(flipped), "x")
        except FormatError as error:
            assert error.message.startswith("x: ")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    tree({"a": b"\x7fELF" + data})


# --- what a file needs ----------------------------------------------------------------------------------------


def test_a_complete_root_has_no_faults() -> None:
    assert faults({**LIBC, "usr/bin/a": PROGRAM, "usr/share/x": b"\x7fEL", "usr/bin/script": b"#!/bin/sh\n"}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"usr/lib/libc.so.6": b"text"}, "usr/bin/a: needs libc.so.6, which is not where it looks"),
        ({"usr/lib/libc.so.6": "libc-2.so"}, "usr/bin/a: needs libc.so.6, which is not where it looks"),
        ({"usr/lib/libc.so.6": "libc.so.6"}, "usr/bin/a: needs libc.so.6, which is not where it looks"),
        ({"lib64": "lib65"}, f"usr/bin/a: its interpreter {LINKER} is not there"),
        ({"usr/bin/a": elf(machine=ARM)}, "usr/bin/a: is for EM_AARCH64, the image is for EM_X86_64"),
        ({"usr/bin/b": elf("libx.so", machine=3)}, "usr/bin/b: is for EM_386, the image is for EM_X86_64"),
        ({"usr/lib/modules/6/kernel/a.ko": elf(machine=ARM, kind=1)}, "kernel/a.ko: is for EM_AARCH64"),
        ({"usr/lib/modules/6/kernel/a.ko.xz": lzma.compress(elf(machine=ARM, kind=1))}, "kernel/a.ko.xz: is for EM_AARCH64"),
    ],
)
def test_faults(change: Files, said: str) -> None:
    (fault,) = faults({**LIBC, "usr/bin/a": PROGRAM, **change})
    assert said in fault


def test_library_of_another_machine() -> None:
    found = faults({**LIBC, "usr/bin/a": elf("libx.so"), "usr/lib/libx.so": elf(machine=ARM)})
    assert found == [
        "usr/bin/a: needs libx.so, which is not where it looks",
        "usr/lib/libx.so: is for EM_AARCH64, the image is for EM_X86_64",
    ]


@pytest.mark.parametrize(
    "where",
    [
        {"usr/bin/a": elf("libx.so", rpath="/opt/x"), "opt/x/libx.so": elf()},
        {"usr/bin/a": elf("libx.so", runpath="$ORIGIN/../x"), "usr/x/libx.so": elf()},
        {"usr/bin/a": elf("libx.so", runpath="${ORIGIN}"), "usr/bin/libx.so": elf()},
        {"usr/bin/a": elf("/opt/libx.so"), "opt/libx.so": elf()},
        {"usr/bin/a": elf("libx.so"), "usr/lib/x86_64-linux-gnu/libx.so": elf()},
        {"usr/bin/a": elf("libx.so"), "etc/ld.so.conf.d/x.conf": b"# here\n/opt/y\n", "opt/y/libx.so": elf()},
        {"usr/bin/a": elf("libx.so"), "usr/lib/ld-musl-x86_64.so.1": elf(), "usr/local/lib/libx.so": elf()},
        {"usr/bin/a": elf("libx.so"), "etc/ld-musl-x86_64.path": b"/opt/z:/usr/lib\n", "opt/z/libx.so": elf()},
        {"usr/bin/a": elf("libx.so"), "usr/lib/libx.so": "../../opt/v1/libx.so", "opt/v1": "v1.2", "opt/v1.2/libx.so": elf()},
    ],
)
def test_places(where: Files) -> None:
    assert faults(where) == []
    assert faults({path: content for path, content in where.items() if not path.endswith("libx.so")}) != []


MUSL = "/lib/ld-musl-x86_64.so.1"
BOTH: Files = {
    **LIBC,
    "usr/lib/ld-musl-x86_64.so.1": elf(soname="libc.musl-x86_64.so.1"),
    "usr/lib/libc.musl-x86_64.so.1": "ld-musl-x86_64.so.1",
    "usr/lib/libz.so.1": elf("libc.musl-x86_64.so.1", soname="libz.so.1"),
    "usr/bin/alpine": elf("libz.so.1", "libc.musl-x86_64.so.1", interpreter=MUSL),
}


def test_each_file_looks_as_its_own_c_library_does() -> None:
    """Two C libraries in one root: glibc's linker falls back to /usr/lib, where musl's libraries lie."""
    debian = elf("libz.so.1", "libc.so.6", interpreter=LINKER)
    whole = {**BOTH, "usr/bin/debian": debian, "usr/lib/x86_64-linux-gnu/libz.so.1": elf("libc.so.6", soname="libz.so.1")}
    assert faults(whole) == []
    (fault,) = faults({**BOTH, "usr/bin/debian": debian})
    assert fault == "usr/bin/debian: needs libz.so.1 for glibc, and finds usr/lib/libz.so.1, which is not"
    # A module of a program names no C library: it finds all that it needs with one of them.
    module = elf("libz.so.1", "libpanel.so.6")
    assert faults({**whole, "opt/m.so": module, "usr/lib/x86_64-linux-gnu/libpanel.so.6": elf("libc.so.6")}) == []
    assert faults({**whole, "opt/m.so": module}) == ["opt/m.so: needs libpanel.so.6, which is not where it looks"]
    alone = {path: content for path, content in whole.items() if path != "usr/lib/libz.so.1"}
    assert faults(alone) == ["usr/bin/alpine: needs libz.so.1, which is not where it looks"]


# --- what is reviewed -----------------------------------------------------------------------------------------

SYSTEM: Files = {
    **LIBC,
    "usr/bin/doas": (0o4755, PROGRAM),
    "usr/bin/wall": (0o2755, b"#!/bin/sh\n"),
    "etc/runlevels/default/sshd": "/etc/init.d/sshd",
    "usr/lib/modules/6.1/kernel/drivers/net/usb/a.ko.xz": b"x",
    "usr/lib/modules/6.1/kernel/fs/b.ko": b"x",
    "usr/lib/grub/i386-pc/a.mod": elf(machine=3, kind=1),
}
LISTS = Lists(("2755 0:0 usr/bin/wall", "4755 0:0 usr/bin/doas"), ("default/sshd",), ("kernel/drivers/net", "kernel/fs"))
GRUB = Exempt("usr/lib/grub/i386-pc/*", "EM_386", "the boot loader's own")


def test_reviewed() -> None:
    assert lists_of(tree(SYSTEM)) == LISTS
    assert compare(tree(SYSTEM), "x86_64", Reviewed(LISTS, (GRUB,))) == []


def test_unreviewed_and_gone() -> None:
    more = tree({**SYSTEM, "usr/bin/su": (0o4711, PROGRAM), "etc/runlevels/boot/telnetd": "/etc/init.d/telnetd"})
    assert compare(more, "x86_64", Reviewed(LISTS)) == [
        "usr/lib/grub/i386-pc/a.mod: is for EM_386, the image is for EM_X86_64",
        "4711 0:0 usr/bin/su: setuid file that nobody reviewed",
        "boot/telnetd: enabled service that nobody reviewed",
    ]
    assert compare(tree({}), "x86_64", Reviewed(Lists(services=("default/sshd",)), (GRUB,))) == [
        "usr/lib/grub/i386-pc/*: EM_386: an exception that nothing needs",
        "default/sshd: enabled service that was reviewed, and is not there",
    ]
    # Another mode or owner is another thing.
    assert len(compare(tree({**SYSTEM, "usr/bin/doas": (0o6755, PROGRAM)}), "x86_64", Reviewed(LISTS, (GRUB,)))) == 2


def test_lists_as_files(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    assert read_reviewed(path, "lab.toml") == {}
    path.write_text(
        draft("host-pc", LISTS) + '[[host-pc.exempt]]\npath = "a*"\nwhat = "EM_386"\nwhy = "so"\n' + draft("x-y", Lists())
    )
    assert read_reviewed(path, "lab.toml") == {
        "host-pc": Reviewed(LISTS, (Exempt("a*", "EM_386", "so"),)),
        "x-y": Reviewed(Lists()),
    }
    path.write_text('[a]\nsetuid = ["b", "a"]\nsuid = []\n[[a.exempt]]\npath = "x"\n')
    with pytest.raises(ConfigError) as caught:
        read_reviewed(path, "lab.toml")
    for said in ("a.setuid: must be sorted", "a.suid: unknown key", "a.exempt[0].what: missing", "a.exempt[0].why: missing"):
        assert f"lab.toml: {said}" in str(caught.value)


def test_committed_lists(checkout: Path) -> None:
    for path in sorted((checkout / "pipeline" / "images" / "elf").glob("*.toml")):
        assert read_reviewed(path, path.name)
    assert reviewed_path(checkout, "lab").is_file()


# --- images ---------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    for path, content in SYSTEM.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            mode, data = content if isinstance(content, tuple) else (0o644, content)
            place.write_bytes(data)
            place.chmod(mode)
    (folder / "big").write_bytes(bytes(range(256)) * 9000)
    (folder / "long").symlink_to("x" * 100)
    many = folder / "many"
    many.mkdir()
    for number in range(700):
        (many / f"{number:060}").touch()
    return folder


@pytest.fixture(scope="module")
def filesystem(root: Path) -> Path:
    image = root.parent / f"{root.name}.ext4"
    argv: list[str | Path] = [
        program("mke2fs"),
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-d",
        root,
        "-E",
        "root_owner=0:0",
        image,
        "24M",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    return image


def test_ext4(filesystem: Path) -> None:
    with filesystem.open("rb") as stream:
        system = Ext4(stream, "image")
        inodes = dict(system.walk())
        assert system.read(inodes["big"]) == bytes(range(256)) * 9000
        assert system.read(inodes["big"], 7) == bytes(range(7))
        assert system.read(inodes["long"]) == b"x" * 100
        assert len([path for path in inodes if path.startswith("many/")]) == 700
        found = ext4_tree(stream, "image")
    found.entries = {path: entry for path, entry in found.entries.items() if not path.startswith(("many", "big", "long", "lost"))}
    owner = found.entries["usr/bin/doas"].uid
    wanted = tuple(row.replace("0:0", f"{owner}:{found.entries['usr/bin/doas'].gid}") for row in LISTS.setuid)
    assert compare(found, "x86_64", Reviewed(Lists(wanted, LISTS.services, LISTS.modules), (GRUB,))) == []


def test_disk(filesystem: Path, tmp_path: Path) -> None:
    """The root of a disk is its last partition."""
    row = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (49152).to_bytes(4, "little")
    sector = bytes(446) + row + bytes(48) + b"\x55\xaa"
    disk = tmp_path / "disk.img"
    disk.write_bytes(sector.ljust(1 << 20, b"\0") + filesystem.read_bytes())
    assert lists_of(tree_of(disk)).services == ("default/sshd",)
    assert lists_of(tree_of(filesystem)).services == ("default/sshd",)


def test_damaged_ext4(filesystem: Path) -> None:
    """However it is damaged: read, or refused by the one error; and never for long."""
    data = filesystem.read_bytes()
    flipped = bytearray(data)
    before = 0
    for place in [*range(1024, 1400, 3), *range(4096, 4200, 3), *range(40960, 42000, 31)]:
        flipped[before] = data[before]
        flipped[place] ^= 0xFF
        before = place
        try:
            system = Ext4(io.BytesIO(flipped), "image")
            for number, (_, inode) in enumerate(system.walk()):
                if number > 50:
                    break
                system.read(inode, 100)
        except FormatError as error:
            assert error.message.startswith("image: ")
    with pytest.raises(FormatError, match="ends inside"):
        list(Ext4(io.BytesIO(data[:30000]), "image").walk())
    with pytest.raises(FormatError, match="not an ext4"):
        Ext4(io.BytesIO(bytes(5000)), "image")


def package(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    entries = [(TarEntry(name, size=len(data), mode=0o755), data) for name, data in sorted(files.items())]
    write_package(out, PkgInfo(name="a", version="1-r0", arch="x86_64"), {}, entries, epoch=0, signer=None)
    return out.getvalue()


def apkovl() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("etc/runlevels/default/sshd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/init.d/sshd"
        archive.addfile(link)
    return out.getvalue()


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iso")
    (folder / "in/apks/x86_64").mkdir(parents=True)
    name = "a-package-with-a-name-that-is-longer-than-what-plain-iso-9660-could-ever-hold-1.0-r0.apk"
    (folder / "in/apks/x86_64" / name).write_bytes(package({"usr/bin/a": PROGRAM, "usr/lib/b.so": elf(machine=ARM)}))
    (folder / "in/tower.apkovl.tar.gz").write_bytes(apkovl())
    (folder / "in/Link").symlink_to("apks/../tower.apkovl.tar.gz")
    argv: list[str | Path] = [
        program("xorriso"),
        "-as",
        "mkisofs",
        "-quiet",
        "-r",
        "-J",
        "-joliet-long",
        "-o",
        folder / "a.iso",
        folder / "in",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    return folder / "a.iso"


def test_iso(iso: Path) -> None:
    found = tree_of(iso)
    assert lists_of(found).services == ("default/sshd",)
    assert [str(fault) for fault in findings(found, "x86_64")] == [
        f"usr/bin/a: its interpreter {LINKER} is not there",
        "usr/bin/a: needs libc.so.6, which is not where it looks",
        "usr/lib/b.so: is for EM_AARCH64, the image is for EM_X86_64",
    ]
    with iso.open("rb") as stream:
        listed = {file.path: file for file in iso_files(stream, iso)}
    assert listed["Link"].link == "apks/../tower.apkovl.tar.gz"
    assert any(path.startswith("apks/x86_64/a-package-with-a-name") for path in listed)


def test_damaged_iso(iso: Path, tmp_path: Path) -> None:
    data = iso.read_bytes()
    for place in [*range(16 * 2048, 16 * 2048 + 200), *range(19 * 2048, 30 * 2048, 37)]:
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        try:
            for file in iso_files(io.BytesIO(flipped), Path("a.iso")):
                file.read(io.BytesIO(flipped))
        except FormatError:
            pass
    with pytest.raises(FormatError, match="not an ISO"):
        iso_files(io.BytesIO(data[: 16 * 2048]), Path("a.iso"))
    first = min(start for file in iso_files(io.BytesIO(data), iso) for start, size in file.extents if size)
    (tmp_path / "b.iso").write_bytes(data[:first])
    with pytest.raises(FormatError):
        tree_of(tmp_path / "b.iso")


def test_tar() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in (
            ("./usr", tarfile.DIRTYPE, ""),
            ("./usr/b", tarfile.LNKTYPE, "./usr/a"),
            ("./dev/x", tarfile.CHRTYPE, ""),
        ):
            if kind == tarfile.LNKTYPE:
                file = tarfile.TarInfo("./usr/a")
                file.size, file.mode = len(PROGRAM), 0o4755
                archive.addfile(file, io.BytesIO(PROGRAM))
            row = tarfile.TarInfo(name)
            row.type, row.linkname = kind, target
            archive.addfile(row)
    made = tree({})
    add_tar(made, out.getvalue())
    assert {path: entry.kind for path, entry in made.entries.items()} == {
        "usr": "folder", "usr/a": "file", "usr/b": "file", "dev/x": "other"
    }  # fmt: skip
    assert lists_of(made).setuid == ("4755 0:0 usr/a", "4755 0:0 usr/b")


# --- the command ----------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, filesystem: Path) -> None:
    factory = opened(tmp_path)
    (image,) = (image for image in factory.plan.images if image.target == "pc")
    path = publish.dist_folder(factory.paths) / image.output
    path.write_bytes(filesystem.read_bytes())
    with pytest.raises(VerifyError) as caught:
        audit_elf(inputs.destination(factory), factory.plan.channel.name, [image], factory.progress)
    said = str(caught.value)
    assert f"{image.output}: usr/lib/grub/i386-pc/a.mod: is for EM_386" in said
    assert "nobody reviewed what it holds; a draft of the list is in" in said
    assert "pipeline/images/elf/stable.toml" in caught.value.hint
    listed = (tmp_path / "build/audit/host-pc.toml").read_text()
    exempt = '[[host-pc.exempt]]\npath = "usr/lib/grub/*"\nwhat = "EM_386"\nwhy = "boots"\n'
    (tmp_path / "pipeline/images/elf").mkdir(parents=True)
    (tmp_path / "pipeline/images/elf/stable.toml").write_text(listed + exempt)
    audit_elf(inputs.destination(factory), factory.plan.channel.name, [image], factory.progress)
    path.unlink()
    with pytest.raises(StageError, match="is not built"):
        audit_elf(inputs.destination(factory), factory.plan.channel.name, [image], factory.progress)


def test_this_machine() -> None:
    """The interpreter of the tests finds its libraries, by the same rules."""
    binary = Path(sys.executable).resolve()
    found = read_elf(binary.read_bytes(), binary.name)
    assert found.machine == machine_of(binary.read_bytes())
