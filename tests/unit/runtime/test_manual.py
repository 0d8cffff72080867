# SPDX-License-Identifier: Apache-2.0
"""The manual: complete, the same words as `--help`, and clean in the eyes of the programs that show it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tower.base.errors import AnswerError
from tower.cli import main, manual
from tower.cli.manual import Page


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {page.name: page for page in manual.pages()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man") / "man1"
    assert main.main(["mdhelp", "--man", str(made)]) == 0
    return made


def shown(path: Path) -> str:
    """A page as `man` shows it, without line breaks."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-Tutf8", path], capture_output=True, text=True, check=True, timeout=30)
    return " ".join(re.sub(r".\x08", "", done.stdout).split())


def test_there_is_a_page_a_command(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"tower.1", *(f"tower-{name}.1" for name in main.COMMANDS)}


@pytest.mark.qa("T11")
def test_mandoc_and_groff_have_no_complaints(folder: Path) -> None:
    pages = sorted(folder.iterdir())
    for argv in (["mandoc", "-Tlint", "-W", "warning"], ["groff", "-man", "-Tutf8", "-ww", "-z"]):
        if shutil.which(argv[0]) is None:
            pytest.skip(f"{argv[0]} is not installed")
        done = subprocess.run([*argv, *pages], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.qa("T11")
@pytest.mark.parametrize("name", main.COMMANDS)
def test_a_page_says_all_that_help_says(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main([name, "--help"])
    wanted = re.findall(r"[^\s`]{4,}", capsys.readouterr().out)
    # Titles are in capitals on a page; usage is broken into lines elsewhere; help has "usage:" and "positional arguments:".
    text = re.sub(r"\s", "", shown(folder / f"tower-{name}.1")).lower()
    missing = [word for word in wanted if word.lower().rstrip(":") not in text and word not in ("usage:", "positional")]
    assert not missing


@pytest.mark.qa("T11")
def test_man_finds_and_shows_it(folder: Path) -> None:
    """The pager's way, by both programs that are called man."""
    found = [name for name in ("man", "mman") if shutil.which(name)]
    if not found:
        pytest.skip("man is not installed")
    for name in found:
        argv = [name, "-M", str(folder.parent), "tower-install"]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=60, env={"PATH": "/usr/bin:/bin", "MANPAGER": "cat"}
        )
        assert "tower install" in re.sub(r".\x08", "", done.stdout)


def test_the_first_page_has_commands_and_statuses(folder: Path, pages: dict[str, Page]) -> None:
    text = shown(folder / "tower.1")
    for name, summary in main.COMMANDS.items():
        assert f"{name} {summary}" in text
    statuses = next(group for group in pages["tower"].groups if group.title == "exit status")
    assert dict(statuses.rows)[str(AnswerError.exit_status)] == "A host does not answer, or not as it should."
    numbers = [int(status) for status, _ in statuses.rows if status.isdecimal()]
    assert numbers == sorted(set(numbers))


def test_markdown_has_every_option(capsys: pytest.CaptureFixture[str], pages: dict[str, Page]) -> None:
    assert main.main(["mdhelp"]) == 0
    text = capsys.readouterr().out
    assert [line[4:-1] for line in text.splitlines() if line.startswith("## `")] == [f"tower {name}" for name in main.COMMANDS]
    for page in pages.values():
        for group in page.groups:
            for name, _ in group.rows:
                assert f"* `{name}`" in text


NASTY = [".SH NAME", "'br", r"a\fBb", "\\", "-x --y", "`code`", "a^b~c\"d'e", "ein Gerät – „so“", " .x", "%"]


@pytest.mark.parametrize("text", NASTY)
def test_no_text_is_taken_for_a_request(tmp_path: Path, text: str) -> None:
    parser = argparse.ArgumentParser(prog="tower x", epilog=f"examples:\n  {text}\n\n{text} and more\n")
    parser.add_argument("--value", metavar="V", help=text.replace("%", "%%"))
    page = manual._page(parser, ("tower", "x"), "do it")
    path = tmp_path / "tower-x.1"
    path.write_text(manual.man_page(page, date="2026-01-02", version="1"))
    assert shown(path).count(text.replace("`", "").strip()) >= 2
    done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", path], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == ""


def test_the_date_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert main.main(["mdhelp", "--man", str(tmp_path / "man1")]) == 0
    assert '"1970-01-02"' in (tmp_path / "man1" / "tower.1").read_text()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert main.main(["mdhelp", "--man", str(tmp_path / "man1")]) == 10


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main.main(["mdhelp", "--man", str(tmp_path / "file" / "man1")]) == 12
    assert "file" in capsys.readouterr().err
