# SPDX-License-Identifier: Apache-2.0
"""Paths that programs of the factory take for something else: they are refused at once, and by both sides alike."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.apk.solver import file_cache
from pipeline.base.errors import ConfigError
from pipeline.base.paths import cache_home, check_checkout
from pipeline.cli import tasks

REFUSED = [
    b":",
    b'"',
    b"$",
    b"{",
    b"}",
    b"\n",
    b"\r",
    b"\t",
    b"\x01",
    b"\x1f",
    b"\x7f",
    b"\xff",
    b"\xc3",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
]
FINE = [char.encode() for char in " !#%&'()*+,-.;<=>?@[\\]^_`|~aZ0ü漢\u0085\u00a0\u2028\ufeff\uffff\U0001f600e\u0301\u202e"]


def folder(part: bytes) -> bytes:
    return b"/home/user/a" + part + b"z/tower"


def refused(path: bytes) -> bool:
    try:
        check_checkout(Path(os.fsdecode(path)))
    except ConfigError as error:
        assert "move it to another folder" in error.hint
        return True
    return False


@pytest.mark.parametrize("part", REFUSED)
def test_a_checkout_that_programs_would_not_find(part: bytes) -> None:
    assert refused(folder(part))


def test_all_other_characters_are_fine() -> None:
    assert [part for part in FINE if refused(folder(part))] == []


def test_the_entry_refuses_the_same(checkout: Path) -> None:
    """Every byte of ASCII, and what UTF-8 has beside it, as ci/doit and as the factory judge it."""
    parts = [bytes([code]) for code in range(1, 128) if code != ord("/")] + REFUSED + FINE
    paths = [folder(part) for part in parts] + [b"/x/" + part for part in parts]
    text = (checkout / "ci" / "doit").read_text()
    words = re.search(r"^check_path\(\) \{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    assert words is not None
    script = (
        f'no_config=10; die() {{ exit 10; }}\n{words.group()}\nfor root; do (check_path) && echo fine || echo "refused $?"; done'
    )
    done = subprocess.run(
        [b"bash", b"-uc", script.encode(), b"bash", *paths], capture_output=True, check=True, env={"PATH": os.defpath}
    )
    assert done.stderr == b""
    judged = dict(zip(paths, done.stdout.decode().splitlines(), strict=True))
    assert judged == {path: "refused 10" if refused(path) else "fine" for path in paths}


@pytest.mark.parametrize("home", ["relative", '/a "b"', "/a\nb", "/a\udcff"])
def test_a_home_that_downloads_cannot_be_kept_in(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match="downloads cannot be kept there") as raised:
        cache_home()
    assert "XDG_CACHE_HOME" in raised.value.hint


def test_a_home_with_all_that_a_name_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/a b's/ü:,$~{x}")
    assert cache_home() == Path("/a b's/ü:,$~{x}/.cache")


@pytest.fixture
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows where the home is: as for a user that the system has no line of."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)


@pytest.mark.usefixtures("_no_home")
def test_an_unknown_home_folder_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no home folder for downloads"):
        cache_home()
    # Nothing may be made in the folder where one happens to be.
    assert file_cache.default_folder().startswith("/dev/null/")


@pytest.mark.usefixtures("_no_home")
def test_a_full_disk_is_named_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tasks._fullest().is_dir()
