# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk`: a package made, signed, indexed, verified and shown by the command alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main


@pytest.fixture
def work(tmp_path: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tree, a PKGINFO, a script, and the key."""
    (tmp_path / "tree/usr/bin").mkdir(parents=True)
    (tmp_path / "tree/usr/bin/hello").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "PKGINFO").write_text("pkgname = hello\npkgver = 1.0-r0\narch = noarch\ndepend = busybox\n")
    (tmp_path / ".post-install").write_text("#!/bin/sh\n")
    (tmp_path / "keys").symlink_to(key_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    return tmp_path


def test_from_tree_to_index(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--info", "PKGINFO", "--root", "tree", "--script", ".post-install"]) == 0
    assert main(["verify", "--keys", "keys", "hello-1.0-r0.apk"]) == 13
    assert capsys.readouterr().out == "hello-1.0-r0.apk: not signed\n"
    assert main(["sign", "--key", "keys/test-1.rsa", "--algorithm", "RSA256", "hello-1.0-r0.apk"]) == 0
    index = ["index", "--key", "keys/test-1.rsa", "--keys", "keys", "-d", "test", "-o", "APKINDEX.tar.gz", "hello-1.0-r0.apk"]
    assert main(index) == 0
    first = (work / "APKINDEX.tar.gz").read_bytes()
    assert main(index) == 0
    assert (work / "APKINDEX.tar.gz").read_bytes() == first
    assert main(["sign", "--key", "keys/test-1.rsa", "APKINDEX.tar.gz"]) == 0
    assert (work / "APKINDEX.tar.gz").read_bytes() == first
    assert main(["verify", "--keys", "keys", "hello-1.0-r0.apk", "APKINDEX.tar.gz"]) == 0
    assert capsys.readouterr().out == "hello-1.0-r0.apk: ok\nAPKINDEX.tar.gz: ok, 1 packages\n"
    assert main(["info", "--json", "hello-1.0-r0.apk"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["depends"], row["scripts"]) == ("hello", ["busybox"], [".post-install"])
    assert row["builddate"] == 1700000000
    assert row["signatures"] == ["RSA256:test-1.rsa.pub"]
    assert [item["path"] for item in row["files"]] == ["usr", "usr/bin", "usr/bin/hello"]
    assert main(["info", "hello-1.0-r0.apk"]) == 0
    assert "depends: busybox\n" in capsys.readouterr().out
    assert sorted(path.name for path in work.iterdir()) == [
        ".post-install", "APKINDEX.tar.gz", "PKGINFO", "hello-1.0-r0.apk", "keys", "tree",
    ]  # fmt: skip


def test_failures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind has its status, says what is wrong, and leaves no half file."""
    (work / "bad.apk").write_bytes(b"not a package")
    (work / "empty").mkdir()
    for arguments, status, text in [
        (["info", "bad.apk"], 13, "error: bad.apk: control: damaged gzip member"),
        (["info", "missing.apk"], 1, "error: missing.apk: No such file or directory"),
        (["sign", "--key", "keys/test-1.rsa", "bad.apk"], 13, "damaged gzip member"),
        (["sign", "--key", "keys/test-1.rsa.pub", "bad.apk"], 13, "not a private key"),
        (["index", "-o", "out.tar.gz", "bad.apk"], 13, "damaged gzip member"),
        (["verify", "--keys", "empty", "bad.apk"], 13, "no public keys"),
        (["pack", "--info", "bad.apk", "--root", "tree"], 13, "not 'field = value'"),
        (["pack", "--info", "PKGINFO", "--root", "missing"], 1, "missing"),
        (["pack", "--info", "PKGINFO", "--root", "tree", "--script", "PKGINFO"], 10, "no script is called PKGINFO"),
    ]:
        assert main(arguments) == status, arguments
        assert text in capsys.readouterr().err
    assert (work / "bad.apk").read_bytes() == b"not a package"
    assert not [path for path in work.iterdir() if path.name.startswith((".bad", ".hello", "out", ".out", "hello"))]
    assert main(["verify", "--keys", "keys", "bad.apk", "--json"]) == 13
    assert json.loads(capsys.readouterr().out)[0]["ok"] is False
    for wrong in ([], ["verify", "x.apk"], ["index", "--key", "k"], ["sign", "x.apk"]):
        assert main(wrong) == 2, wrong


def test_help(checkout: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pipeline.apk", "--help"], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert "examples:" in run.stdout
    assert "exit status:" in run.stdout
