# SPDX-License-Identifier: Apache-2.0
"""Worlds over indexes of format 3: the same answers as over the same packages in format 2."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main
from pipeline.apk.adb import fields
from pipeline.apk.adb.adbfile import INDEX
from pipeline.apk.adb.encoder import Encoder, Packer
from pipeline.apk.adb.values import ERROR, TYPE_SHIFT
from pipeline.apk.adb.writer import write_index
from pipeline.apk.format.index import IndexEntry, read_index
from pipeline.apk.format.signature import KeyRing, Signer, generate_key
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import IndexFile
from pipeline.apk.solver.solve import Solver, UnsolvableError
from pipeline.base.errors import VerifyError
from tests.unit.apk.worlds import index, package

NO_CACHE = FileCache("/dev/null/none")
PACKAGES = (
    package("app-1.0-r0", depends="lib>=2 so:x !old", provides="cmd:app=1.0-r0"),
    package("lib-1.0-r0"),
    package("lib-2.0-r0", provides="so:x=2"),
    package("other-1.0-r0", provides="so:x=3", provider_priority=5),
    package("app-doc-1.0-r0", install_if="app docs"),
    package("docs-1.0-r0"),
    package("pinned-1.0-r0", depends="lib><" + package("lib-2.0-r0", provides="so:x=2").checksum),
)
WORLDS = ("app", "app docs", "lib~1", "so:x", "app lib<2", "pinned", "cmd:app other", "!lib app")


def third(signer: Signer, *entries: IndexEntry, name: str = "main") -> IndexFile:
    """The signed index of some packages, in format 3."""
    out = io.BytesIO()
    write_index(out, name, entries, signer)
    return IndexFile(name, out.getvalue())


def answers(files: list[IndexFile], keys: dict[str, bytes], cache: FileCache) -> list[list[str] | None]:
    solver = Solver.load(files, keys, "x86_64", cache)
    found: list[list[str] | None] = []
    for world in WORLDS:
        try:
            found.append([f"{one} {one.checksum} {one.size}" for one in solver.solve(world.split()).packages])
        except UnsolvableError:
            found.append(None)
    return found


def test_the_answers_are_the_same(signer: Signer, ring: KeyRing, tmp_path: Path) -> None:
    """With both formats in one pool, too, and when the parsed indexes come from the cache."""
    keys = {"test-1.rsa.pub": ring.key("test-1.rsa.pub")}
    second = answers([index(signer, *PACKAGES)], keys, NO_CACHE)
    assert [found is None for found in second].count(True) == 3
    cache = FileCache(str(tmp_path))
    for _ in range(2):
        assert answers([third(signer, *PACKAGES)], keys, cache) == second
    mixed = [index(signer, *PACKAGES[:3]), third(signer, *PACKAGES[3:], name="more")]
    assert answers(mixed, keys, NO_CACHE) == second


def test_longer_checksums(signer: Signer, ring: KeyRing) -> None:
    """What the solver says of a package is the index's own checksum, of either length."""
    long = IndexEntry("Q2" + "A" * 43 + "=", "long", "1-r0", "x86_64", 5)
    keys = {"test-1.rsa.pub": ring.key("test-1.rsa.pub")}
    solver = Solver.load([third(signer, long, *PACKAGES)], keys, "x86_64", NO_CACHE)
    found = solver.solve(["long", "docs"]).packages
    assert [item.checksum for item in found] == [PACKAGES[5].checksum, long.checksum]


def test_only_trusted_indexes(signer: Signer, tmp_path: Path) -> None:
    generate_key(tmp_path, "other", bits=2048)
    with pytest.raises(VerifyError, match="no valid signature"):
        answers([third(signer, *PACKAGES)], {"other.rsa.pub": (tmp_path / "other.rsa.pub").read_bytes()}, NO_CACHE)


def test_a_version_that_apk_could_not_convert_is_empty(signer: Signer, ring: KeyRing) -> None:
    """`convndx` writes an error in the place of a version that is none; Alpine's own index of v3.19 has two such packages."""
    encoder = Encoder("index")
    slots = {fields.INFO["name"]: encoder.text("odd"), fields.INFO["version"]: ERROR << TYPE_SHIFT | 5}
    slots[fields.INFO["hashes"]] = encoder.blob(bytes(20))
    packages = encoder.array([encoder.object(slots)])
    out = io.BytesIO()
    packer = Packer(out)
    packer.start(INDEX, encoder.finish(encoder.object({fields.NDX_PACKAGES: packages})), signer)
    packer.close()
    (entry,) = read_index(io.BytesIO(out.getvalue()), ring).entries
    assert (entry.name, entry.version) == ("odd", "")
    solver = Solver.load([IndexFile("x", out.getvalue())], {"k.pub": ring.key("test-1.rsa.pub")}, "x86_64", NO_CACHE)
    assert [str(item) for item in solver.solve(["odd"]).packages] == ["odd-"], "as apk, which then finds no file of this name"
    with pytest.raises(UnsolvableError):
        solver.solve(["odd=1"])


def test_command(signer: Signer, key_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`solve` takes a Packages.adb, and `index` writes one."""
    (tmp_path / "Packages.adb").write_bytes(third(signer, *PACKAGES).data)
    options = ["--keys", str(key_folder), "--index", str(tmp_path / "Packages.adb"), "--arch", "x86_64", "--cache", str(tmp_path)]
    assert main(["solve", *options, "app", "docs"]) == 0
    assert capsys.readouterr().out.split() == ["app-1.0-r0", "app-doc-1.0-r0", "docs-1.0-r0", "lib-2.0-r0"]
    assert main(["verify", "--keys", str(key_folder), str(tmp_path / "Packages.adb")]) == 0
    assert capsys.readouterr().out.endswith("ok, 7 packages\n")
