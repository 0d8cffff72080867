# SPDX-License-Identifier: Apache-2.0
"""Packages and indexes of other makers: what apk installs is taken, and what is not has a reason that is said.

apk 2.14.10 and 3.0.8 install each of the packages that are taken here.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main
from pipeline.apk.format.index import dump_index_text, entry_of, parse_index_text, read_index
from pipeline.apk.format.package import read_package, write_package
from pipeline.apk.format.pkginfo import PkgInfo, parse
from pipeline.apk.format.signature import ALGORITHMS, Algorithm, KeyRing, Signer
from pipeline.apk.solver.pool import Universe
from pipeline.apk.solver.solve import in_order
from pipeline.base.errors import FormatError
from tests.unit.apk.forge import END, Form, Item, gz, item, package, raw_tar, stream
from tests.unit.apk.test_index import ONE, SUM

HEAD = b"pkgname = foo\npkgver = 1.0-r0\narch = noarch\n"


def names(data: bytes) -> list[str]:
    found = read_package(stream(data), None)
    found.verify_data()
    return [entry.name for entry, _content in found.iter_data()]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "items, wanted",
    [
        (
            [item("usr", type=tarfile.DIRTYPE), item("usr/a", b"x"), item("usr", type=tarfile.DIRTYPE), item("usr/b", b"x")],
            ["usr", "usr/a", "usr", "usr/b"],
        ),
        ([item("usr/a/b", b"x"), item("usr/a/", type=tarfile.DIRTYPE), item("usr/a/c", b"x")], ["usr/a/b", "usr/a", "usr/a/c"]),
        ([item("usr/caf\udce9", b"x")], ["usr/caf\udce9"]),
        ([item("usr/a", b"x"), item("usr/\udce9", type=tarfile.LNKTYPE, linkname="usr/a")], ["usr/a", "usr/\udce9"]),
        ([item("usr/l", type=tarfile.SYMTYPE, linkname="caf\udce9")], ["usr/l"]),
        ([item("usr/" + "\udce9" * 200, b"x")], ["usr/" + "\udce9" * 200]),
    ],
)
def test_data_that_is_taken(items: list[Item], wanted: list[str], form: Form) -> None:
    assert names(package(data=gz(raw_tar(items, form) + END))) == wanted


@pytest.mark.parametrize("mtime", ["-62135596800", "-0.5", "-1.999999999", "0.5"])
def test_times_before_1970(mtime: str) -> None:
    assert names(package([item("usr/a", b"x", pax_headers={"mtime": mtime})])) == ["usr/a"]


@pytest.mark.parametrize(
    "items, reason",
    [
        ([item("./usr", type=tarfile.DIRTYPE)], "component"),  # apk 3: file format is invalid
        (
            [item("usr/b", type=tarfile.LNKTYPE, linkname="usr/a"), item("usr/a", b"x")],
            "not a file before it",
        ),  # no hard link target
        ([item("usr/a", b"x"), item("usr/a", b"y")], "usr/a occurs twice"),
        ([item("usr/a", b"x"), item("usr/a", type=tarfile.DIRTYPE)], "usr/a occurs twice"),
        ([item("usr/\udce9", b"x"), item("usr/\udce9", b"x")], r"usr/\\xe9 occurs twice"),
    ],
)
def test_data_that_is_refused(items: list[Item], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        names(package(items))


def test_data_in_two_pieces() -> None:
    """apk 3 refuses it, apk 2 warned of that."""
    raw = raw_tar([item("usr/a", b"x")]) + END
    with pytest.raises(FormatError, match="archive ends"):
        names(package(data=gz(raw[:512]) + gz(raw[512:])))


@pytest.mark.parametrize(
    "text, field, wanted",
    [
        (b"pkgdesc = My tool\nwith a second line\n", "description", "My tool"),
        (b"pkgdesc = My tool\n  for a = b, and\n\n   more=less\n", "description", "My tool"),
        (b"license = MIT\nlicense = GPL-2.0\n", "license", "GPL-2.0"),
        (b"maintainer = A\nmaintainer = B <b@c>\nurl = x\nurl = y\n", "maintainer", "B <b@c>"),
        (b"pkgdesc = caf\xe9 \x96 na\xefve\n", "description", "caf\u00e9 \u2013 na\u00efve"),
        ("pkgdesc = caf\u00e9\nmaintainer = ".encode() + b"J\xf6rg\n", "description", "caf\u00e9"),
        (b"pkgdesc = a\ttab\n", "description", "a\ttab"),
        (b"size = 3\nsize = 3\npkgname = foo\n", "size", 3),
        (b"x\xff = y\npackager = \xff\n# \xff\n", "name", "foo"),
        (b"depend = " + b" ".join(b"so:lib%d.so.1" % number for number in range(20000)) + b"\n", "name", "foo"),
    ],
)
def test_control_that_is_taken(text: bytes, field: str, wanted: object) -> None:
    assert getattr(parse(HEAD + text), field) == wanted


@pytest.mark.parametrize("version", ["1.4.4-1289492819", "2022.12.27~7a0cda7f-r2", "latest", "1.1.0-r1-r0", "v2.0"])
def test_versions_of_other_makers(version: str, tmp_path: Path) -> None:
    """They can be verified, indexed and chosen; what we make has a version of Alpine."""
    path = tmp_path / "evil.apk"
    path.write_bytes(package([item("usr/a", b"x")], pkgver=version))
    entry = entry_of(path, arch="x86_64")
    assert parse_index_text(dump_index_text([entry])) == (entry,)
    (chosen,) = in_order(Universe.of([[entry]], "x86_64"), ["evil"])
    assert str(chosen) == f"evil-{version}"
    with pytest.raises(FormatError, match="not an Alpine version"):
        parse(f"pkgname = evil\npkgver = {version.partition('~')[0]}-x\narch = noarch\n".encode(), strict=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms(algorithm: Algorithm, key_folder: Path, ring: KeyRing) -> None:
    """Also SHA-512, which apk knows although abuild does not use it."""
    signer = Signer(key_folder / "test-1.rsa", "test-1.rsa.pub", algorithm)
    assert read_package(stream(package(signer=signer)), ring).signatures[0].algorithm == algorithm


def test_odd_names_are_shown_escaped(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "evil.apk"
    path.write_bytes(package([item("usr/caf\udce9", b"x")]))
    assert main(["info", str(path)]) == 0
    assert b"usr/caf\\xe9\n" in capsysbinary.readouterr().out
    assert main(["info", "--json", str(path), str(path)]) == 0
    shown = json.loads(capsysbinary.readouterr().out)
    assert [row["files"][0]["path"] for row in shown] == ["usr/caf\udce9"] * 2


def test_odd_names_are_written_as_they_were(tmp_path: Path) -> None:
    found = read_package(stream(package([item("usr/caf\udce9", b"x")])), None)
    entries = [(entry, content.read()) for entry, content in found.iter_data()]
    with (tmp_path / "again.apk").open("wb") as out:
        write_package(out, PkgInfo("foo", "1-r0", "noarch"), {}, entries, epoch=0)
    assert b"usr/caf\xe9" in gzip.decompress((tmp_path / "again.apk").read_bytes())


@pytest.mark.parametrize(
    "text, count",
    [
        (ONE + ONE, 1),
        (ONE.replace("V:1-r0", "V:1.1.0-r1-r0") + ONE, 2),
        (ONE.replace("V:1-r0", "V:1-r0\nF:usr\nr:b c\nq:5\nz:new"), 1),
    ],
)
def test_indexes_that_are_taken(text: str, count: int) -> None:
    entries = parse_index_text(text)
    assert len(entries) == count
    assert all(entry.installable for entry in entries)


def test_an_index_in_another_encoding() -> None:
    data = ONE.encode().replace(b"V:1-r0", b"V:1-r0\nT:caf\xe9\nm:J\xf6rg")
    (entry,) = read_index(stream(gz(raw_tar([item("APKINDEX", data)]) + END)), None).entries
    assert (entry.description, entry.maintainer) == ("caf\u00e9", "J\u00f6rg")


@pytest.mark.parametrize("generation", [2, 3])
def test_a_package_for_a_newer_apk_is_not_chosen(generation: int) -> None:
    """apk says the same of a field that it does not know, if it is a capital one."""
    other = SUM.replace("Q1A", "Q1B")
    text = ONE + ONE.replace("V:1-r0", "V:2-r0\nX:new").replace(SUM, other)
    universe = Universe.of([parse_index_text(text)], "", generation=generation)
    assert [str(item) for item in in_order(universe, ["foo"])] == ["foo-1-r0"]


# A process counts what the one it was forked from had, so a small one starts the command.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "pipeline.apk", *sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


def most_memory(checkout: Path, *argv: str) -> tuple[int, int]:
    """Status of the command, and the most memory that it had, in MiB."""
    command = [sys.executable, "-c", MEASURE, *argv]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True, timeout=50)
    status, most = map(int, done.stdout.split())
    return status, most


HOARDS = {
    "deep paths": [item("/".join([f"{number:x}", *"a" * 2040]), b"") for number in range(400)],
    "deep paths of wide characters": [item("/".join([f"{number:x}", *"\U0001f600" * 800]), b"") for number in range(400)],
    "large pax heads": [item(f"usr/{number}", b"", pax_headers={"comment": "c" * 1_000_000}) for number in range(100)],
    "many pax fields": [
        item(f"usr/{number}", b"", pax_headers={f"SCHILY.xattr.user.{key}": "c" for key in range(20000)}) for number in range(20)
    ],
}


@pytest.mark.parametrize("kind", HOARDS)
def test_a_small_package_does_not_fill_the_memory(
    kind: str, signer: Signer, key_folder: Path, checkout: Path, tmp_path: Path
) -> None:
    """A small file must not fill the memory, whether it is taken in the end or not."""
    path = tmp_path / "evil-1-r0.apk"
    path.write_bytes(package(HOARDS[kind], signer=signer))
    status, most = most_memory(checkout, "verify", "--keys", str(key_folder), str(path))
    assert status in (0, 13)
    assert most < 160


def test_a_long_list_of_dependencies_does_not_fill_the_memory(
    signer: Signer, key_folder: Path, checkout: Path, tmp_path: Path
) -> None:
    path = tmp_path / "evil-1-r0.apk"
    path.write_bytes(package([item("usr/a", b"x")], signer=signer, depend="ab " * 5_000_000))
    status, most = most_memory(checkout, "verify", "--keys", str(key_folder), str(path))
    assert (status, most < 160) == (13, True)
