# SPDX-License-Identifier: Apache-2.0
"""Words for apk: the thin client's Python, the devices' shell and the factory judge them alike, and as apk does."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.install import apkwords
from tower.install.choose import check_names

from pipeline.apk.format.index import read_index
from pipeline.apk.format.pkginfo import is_name
from tests.conftest import CHECKOUT
from tests.unit.apkwords.scenarios import LIBRARY, read
from tests.unit.apkwords.words import KEPT_FROM_APK, REFUSED, TAKEN, WORDS

HERE = Path(__file__).parent
SAID = ("2.14.4", "3.0.8")


def verdicts(version: str) -> dict[str, str]:
    """What an apk made of each word of the table."""
    lines = read((HERE / f"said-{version}.txt").read_text())["words"]
    return {json.loads(word): verdict for verdict, word in (line.split(" ", 1) for line in lines)}


def test_the_table_is_what_was_asked_of_apk() -> None:
    assert len(set(WORDS)) == len(WORDS)
    for version in SAID:
        assert list(verdicts(version)) == list(WORDS)


@pytest.mark.parametrize("word", TAKEN)
def test_words_that_apk_accepts_are_accepted(word: str) -> None:
    assert "taken" in {verdicts(version)[word] for version in SAID}
    check_names([word])


@pytest.mark.parametrize("word", REFUSED)
def test_words_that_apk_refuses_are_refused(word: str) -> None:
    assert {verdicts(version)[word] for version in SAID} == {"refused"}
    with pytest.raises(ValueRefusedError, match="is not the name of a package"):
        check_names([word])


@pytest.mark.parametrize("word", KEPT_FROM_APK)
def test_words_that_are_not_packages_do_not_reach_apk(word: str) -> None:
    with pytest.raises(ValueRefusedError, match="is not the name of a package"):
        check_names(["nano", word])


def test_a_word_with_a_dot_may_be_a_file_for_apk_3() -> None:
    """Why whoever calls it works in a folder without files."""
    said = {version: read((HERE / f"said-{version}.txt").read_text())["file_of_that_name"] for version in SAID}
    assert apkwords.parse_step(said["2.14.4"][0])
    assert "file format" in said["3.0.8"][0]
    script = (CHECKOUT / "overlays/common/usr/libexec/tower/packages").read_text()
    assert script.index('cd "$run/empty"') < script.index("told add --simulate")


def shells() -> Iterator[tuple[str, str, str]]:
    """Name, shell and grep of each system that we know of."""
    yield "system", "/bin/sh", shutil.which("grep") or ""
    if (busybox := shutil.which("busybox")) is not None:
        yield "busybox", busybox, busybox


@pytest.fixture(params=[pytest.param(one, id=one[0]) for one in shells()])
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The words of a command that reads words, each ended by a NUL, and says of each what `is_wanted` says."""
    _, shell, grep = request.param
    (tmp_path / "grep").symlink_to(grep)
    code = f'. {LIBRARY}\nfor word; do if is_wanted "$word"; then echo yes; else echo no; fi; done'
    return ["env", "-i", f"PATH={tmp_path}", "LC_ALL=C", shell, *(["ash"] if shell == grep else []), "-euc", code, "sh"]


def ask(judge: list[str], words: list[str]) -> list[bool]:
    said = subprocess.run([*judge, *words], capture_output=True, text=True, check=True, timeout=120)
    assert not said.stderr
    return [line == "yes" for line in said.stdout.splitlines()]


def test_the_devices_judge_words_as_the_thin_client_does(judge: list[str]) -> None:
    words = list(WORDS)
    assert dict(zip(words, ask(judge, words), strict=True)) == {word: word in TAKEN for word in words}
    assert all(apkwords.is_wanted(word) == (word in TAKEN) for word in words)


def test_devices_judge_generated_words_as_the_thin_client_does(judge: list[str]) -> None:
    source = random.Random(8)
    parts = (*"aZ09_.+:,/[]!-@<>=~ \t\n*'\"$\\", "nano", "=1.0-r0", "~0f", "-r1", "@edge", ">=", "so:", ".apk", "é", "..")
    words = ["".join(source.choices(parts, k=source.randint(1, 6))) for _ in range(400)]
    words += ["nano" + "".join(source.choices(parts, k=source.randint(1, 3))) for _ in range(200)]
    words = [word for word in words if "\0" not in word]
    mine = [apkwords.is_wanted(word) for word in words]
    assert 40 < sum(mine) < len(words) - 40
    assert dict(zip(words, ask(judge, words), strict=True)) == dict(zip(words, mine, strict=True))


def test_the_shell_has_the_same_expressions() -> None:
    assert f"{'{'}{apkwords.LONGEST + 1}{'}'}" in LIBRARY.read_text()
    text = LIBRARY.read_text()
    found = dict(re.findall(r"^apk_([a-z]+)=(?:'([^']*)'|[0-9]+)$", text, flags=re.MULTILINE))
    assert found["name"] == apkwords.NAME
    assert found["tag"] == apkwords.TAG
    assert found["version"] == apkwords.VERSION
    assert found["file"] == apkwords.FILE
    assert f"apk_longest={apkwords.LONGEST}\n" in text


def test_files_of_a_repository() -> None:
    for name in ("APKINDEX.tar.gz", "nano-8.2-r0.apk", "sedutil-2022.12.27~7a0cda7f-r2.apk", "gtk+3.0-3.24.38-r0.apk"):
        assert apkwords.is_file(name)
    for name in ("", ".", "..", "../x.apk", "a/b.apk", ".x.apk", "-x.apk", "a b.apk", "a\n.apk", "é.apk", "a" * 251):
        assert not apkwords.is_file(name)


@pytest.mark.parametrize("tag", ["edge", "v3.19", "a_b-c+d", "1"])
def test_tags(tag: str) -> None:
    assert apkwords.is_tag(tag)


@pytest.mark.parametrize("tag", ["", "a b", "a/b", "a@b", "a;b", "a\n", "é", "a" * 251])
def test_invalid_tags_are_refused(tag: str) -> None:
    assert not apkwords.is_tag(tag)


@pytest.mark.parametrize(
    "word",
    ["nano", "!nano", ".build-deps", ".build-deps=20240101.120000", "nano@edge=8~0f-r1", "/lib/ld-musl.so.1", "x><Q1ab+/cd="],
)
def test_words_of_a_world(word: str) -> None:
    assert apkwords.is_world(word)


@pytest.mark.parametrize("word", ["", "--allow-untrusted", "a;b", "a\x1b", "é", "x><Q1;", "a" * 501])
def test_invalid_words_of_a_world_are_refused(word: str) -> None:
    assert not apkwords.is_world(word)


def test_the_name_in_a_word() -> None:
    for word in ("nano", "nano@edge", "nano@edge>=8", "nano=8", "nano~8", "nano><Q1x="):
        assert apkwords.name_of(word) == "nano"


def test_the_factory_calls_the_same_words_names() -> None:
    """What it makes packages and indexes of, devices must take."""
    for word in WORDS:
        if is_name(word) and len(word) <= apkwords.LONGEST and ".apk" not in word:
            assert apkwords.is_wanted(word), word
            assert apkwords.is_file(f"{word}-1.0-r0.apk"[-apkwords.LONGEST :])


@pytest.mark.shared
def test_all_names_of_a_release_of_alpine(shared_dir: Path) -> None:
    files = sorted((shared_dir / "alpine-v3.19").glob("*/x86_64/APKINDEX.tar.gz"))
    assert files
    for path in files:
        with path.open("rb") as stream:
            for entry in read_index(stream, None).entries:
                assert apkwords.is_file(entry.file_name)
                for word in (entry.name, f"{entry.name}={entry.version}", *entry.provides, *entry.depends):
                    # What must not be there, and what is named by a checksum, nobody installs.
                    assert apkwords.is_wanted(apkwords.name_of(word.removeprefix("!"))), word
                    assert word.startswith("!") or apkwords.is_wanted(word) or "><" in word, word


def test_a_repository_that_holds_nothing_for_each_tag_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "world").write_text("nano\nfoo@edge\nbar@edge>=1\nbaz@v3.19~2 !x\tso:y@a:b=1\n")
    code = f'. {LIBRARY}\nlay_nowhere "$1/nowhere" x86_64 "$1/world"'
    done = subprocess.run(["/bin/sh", "-euc", code, "sh", tmp_path], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.splitlines() == [f"@{tag} {tmp_path}/nowhere" for tag in ("a:b", "edge", "v3.19")]
    with tarfile.open(tmp_path / "nowhere/x86_64/APKINDEX.tar.gz") as index:
        assert [(member.name, member.size) for member in index] == [("APKINDEX", 0)]
    (tmp_path / "world").write_text("nano\nfoo>=1\n")
    assert not subprocess.run(["/bin/sh", "-euc", code, "sh", tmp_path], capture_output=True, check=True, timeout=20).stdout


def test_a_shell_without_its_grep_takes_nothing(tmp_path: Path) -> None:
    """What cannot be checked is refused."""
    code = f". {LIBRARY}\nis_wanted nano"
    env = {"PATH": os.fspath(tmp_path), "LC_ALL": "C"}
    done = subprocess.run(["/bin/sh", "-c", code], capture_output=True, check=False, env=env, timeout=20)
    assert done.returncode != 0
