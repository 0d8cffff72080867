# SPDX-License-Identifier: Apache-2.0
"""Conversions: what goes in, what comes out, and that it is the same every time."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.apk.format.package import TarEntry, read_package
from pipeline.base.errors import ConfigError, VerifyError
from pipeline.channels.lab.assemble import Conversion, make_jobs, select
from pipeline.channels.lab.catalog import read_catalog
from pipeline.channels.lab.convert import Converted, convert
from pipeline.channels.lab.deb import read_control
from pipeline.channels.lab.package_tree import Node, PackageTree, matcher
from pipeline.channels.lab.scan import scan
from tests.unit.lab.debs import Member, control_text, deb, file, link, locked

EPOCH = 1_700_000_000
RULES = 'ignored = []\ndrop = ["usr/share/doc/**", "etc/init.d/**"]'
MEMBERS = (
    file("./usr/bin/hello", b"#!/bin/sh\n", 0o755),
    file("./usr/sbin/su", b"x", 0o4755),
    file("./usr/share/doc/hello/copyright"),
    file("./etc/init.d/hello"),
    file("./etc/init.d/kept"),
    file("./usr/lib/a.conf", b"a"),
    file("./usr/lib/b.conf", b"b\n"),
    link("./bin/hi", "hello"),
)


class Lab:
    """One package folder and one `.deb` in a temporary place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "packages"
        self.packages.mkdir()
        (self.packages / "rules.toml").write_text(RULES)
        (self.packages / "names.toml").write_text("")
        (folder / "scratch").mkdir()
        self.deb = folder / "hello.deb"
        self.deb.write_bytes(deb(*MEMBERS, control=control_text(Homepage="https://hello.example")))

    def job(self) -> Conversion:
        catalog = read_catalog(self.packages)
        row = locked(self.deb)
        with self.deb.open("rb") as stream:
            controls = {"hello": read_control(stream, "hello")}
        (job,) = make_jobs(catalog, select(catalog, [row], [], "x86_64"), controls, EPOCH, {})
        return job

    def convert(self, job: Conversion | None = None, name: str = "out.apk") -> Converted:
        return convert(job or self.job(), (self.deb,), self.folder, self.folder / "scratch", self.folder / name)

    def entries(self) -> dict[str, tuple[TarEntry, bytes]]:
        with (self.folder / "out.apk").open("rb") as stream:
            return {entry.name: (entry, content.read()) for entry, content in read_package(stream, None).iter_data()}

    def table(self, text: str) -> None:
        (self.packages / "hello").mkdir(exist_ok=True)
        (self.packages / "hello" / "package.toml").write_text(f"description = 'own'\nfrom = ['hello']\n{text}")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_package_without_a_folder(lab: Lab) -> None:
    done = lab.convert()
    assert done.special == ("4755 usr/sbin/su",)
    with (lab.folder / "out.apk").open("rb") as stream:
        info = read_package(stream, None).info
    assert (info.name, info.version, info.arch, info.description) == ("hello", "2.10-r301", "x86_64", "says hello")
    assert (info.commit, info.url, info.builddate) == ("1:2.10-3+b1", "https://hello.example", EPOCH)
    assert info.provides == ("cmd:hello=2.10-r301", "cmd:hi=2.10-r301", "cmd:su=2.10-r301")
    names = set(lab.entries())
    assert {"usr/bin/hello", "usr/bin/hi", "usr/lib/a.conf"} <= names
    assert not {"usr/share", "etc", "bin"} & names
    assert not any((lab.folder / "scratch").iterdir())


def test_all_that_a_folder_can_say(lab: Lab) -> None:
    lab.table("""
version = "9-r1"
keep = ["etc/init.d/kept"]
drop = ["usr/sbin/**"]
depends = ["openrc"]
triggers = ["/usr/bin"]
provider_priority = 10
directories = [{ path = "var/empty", mode = "0555", group = "mail" }]
sources = { "usr/lib/code/rules.toml" = "packages/rules.toml", "usr/lib/tree" = "packages" }
[move]
"usr/bin/hello" = "usr/bin/hello2"
"usr/lib/a.*" = "etc/"
[links]
"usr/bin/alternative" = "hello2"
[join]
"etc/all.conf" = "*.conf"
[[modes]]
path = "etc/a.conf"
owner = "daemon"
group = "shadow"
mode = "0640"
""")
    root = lab.packages / "hello" / "root" / "lib"
    root.mkdir(parents=True)
    (root / "own").write_text("own")
    (root / "own").chmod(0o777)
    (root / "own.pyc").write_text("left out")
    scripts = lab.packages / "hello" / "scripts"
    scripts.mkdir()
    (scripts / ".post-install").write_bytes(b"#!/bin/sh\n")
    lab.convert()
    found = lab.entries()
    assert found["etc/all.conf"][1] == b"a\nb\n"
    assert (found["etc/a.conf"][0].mode, found["etc/a.conf"][0].uname, found["etc/a.conf"][0].gname) == (
        0o640,
        "daemon",
        "shadow",
    )
    assert (found["var/empty"][0].mode, found["var/empty"][0].uname, found["var/empty"][0].gname) == (0o555, "root", "mail")
    assert found["usr/bin/alternative"][0].target == "hello2"
    assert found["lib/own"][0].mode == 0o755 if "lib/own" in found else found["usr/lib/own"][0].mode == 0o755
    assert {"usr/bin/hello2", "etc/init.d/kept", "usr/lib/code/rules.toml", "usr/lib/tree/names.toml"} <= set(found)
    assert not {"usr/bin/hello", "usr/sbin", "etc/init.d/hello", "usr/lib/own.pyc", "lib/own.pyc"} & set(found)
    with (lab.folder / "out.apk").open("rb") as stream:
        package = read_package(stream, None)
    assert (package.info.version, package.info.depends, package.info.provider_priority) == ("9-r1", ("openrc",), 10)
    assert package.scripts == {".post-install": b"#!/bin/sh\n"}


@pytest.mark.parametrize("line", ["move = { none = 'x' }", "join = { x = 'none*' }", "[[modes]]\npath = 'none'\nmode = '0644'"])
def test_tables_that_name_what_is_not_there(lab: Lab, line: str) -> None:
    lab.table(line)
    with pytest.raises(ConfigError, match="there is no 'none"):
        lab.convert()
    assert not (lab.folder / "out.apk").exists()
    assert not any((lab.folder / "scratch").iterdir())


def test_unknown_scripts_are_refused(lab: Lab) -> None:
    lab.table("")
    (lab.packages / "hello" / "scripts").mkdir()
    (lab.packages / "hello" / "scripts" / "postinst").write_text("")
    with pytest.raises(ConfigError, match="postinst: no such script"):
        lab.convert()


def test_equal_input_gives_equal_bytes_and_keys(lab: Lab) -> None:
    lab.convert()
    lab.convert(name="again.apk")
    assert (lab.folder / "out.apk").read_bytes() == (lab.folder / "again.apk").read_bytes()
    key = lab.job().key(lab.folder)
    assert lab.job().key(lab.folder) == key
    lab.table("")
    changed = lab.job().key(lab.folder)
    assert changed != key
    (lab.packages / "hello" / "root").mkdir()
    (lab.packages / "hello" / "root" / "x").touch()
    assert lab.job().key(lab.folder) not in (key, changed)


def test_a_flipped_bit_is_refused_before_anything_is_unpacked(lab: Lab) -> None:
    job = lab.job()
    data = bytearray(lab.deb.read_bytes())
    data[len(data) // 2] ^= 1
    lab.deb.write_bytes(data)
    with pytest.raises(VerifyError, match="sha256"):
        lab.convert(job)


def _tree(*members: Member) -> PackageTree:
    tree = PackageTree(io.BytesIO())
    for info, content in members:
        tree.add_file(Node(info.name, "file", info.mode), io.BytesIO(content))
    return tree


def test_libraries_and_pkg_config_are_read_from_the_files() -> None:
    python = Path(sys.executable).resolve().read_bytes()
    pc = b"prefix=/usr\nv=1.2\nName: foo\nVersion: ${v}.3\nRequires: bar >= 2.0, baz\nRequires.private: qux\n"
    tree = _tree(
        file("usr/bin/python", python, 0o755),
        file("usr/lib/pkgconfig/foo.pc", pc),
        file("usr/lib/x", b"\x7fELF" + b"z" * 99),
    )
    found = scan(tree, "x86_64", "1-r0")
    assert "pc:foo=1.2.3" in found.provides
    assert "cmd:python=1-r0" in found.provides
    assert {"pc:bar>=2.0", "pc:baz", "pc:qux", "gnu:libc.so.6"} <= set(found.depends)
    assert not any(item.startswith("so:") for item in scan(tree, "aarch64", "1-r0").depends)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("usr/share/doc/**", "usr/share/doc/a/b", True),
        ("usr/share/doc/**", "usr/share/docs", False),
        ("usr/*/x", "usr/a/x", True),
        ("usr/*/x", "usr/a/b/x", False),
        ("etc/cron.*/**", "etc/cron.daily/x", True),
        ("a?c", "abc", True),
        ("a.c", "abc", False),
        ("**", "any/thing", True),
        ("**/__pycache__/**", "usr/lib/__pycache__/x.pyc", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert bool(matcher((pattern,)).fullmatch(path)) is matches


def test_a_command_that_the_base_has_is_left_out(lab: Lab) -> None:
    lab.table("")
    job = replace(lab.job(), taken=("hello",))
    assert job.key(lab.folder) != lab.job().key(lab.folder)
    lab.convert()
    assert "usr/bin/hello" in lab.entries()
    lab.convert(job)
    entries = lab.entries()
    assert "usr/bin/hello" not in entries
    assert "usr/lib/a.conf" in entries
