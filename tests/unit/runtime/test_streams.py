# SPDX-License-Identifier: Apache-2.0
"""Input and output as a shell may give them: full, closed, read by nobody, in another encoding. Always a real `tower`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Tower

from tests.unit.runtime.test_sshconf import add

TOWER = f"{sys.executable} -P -m tower"
IMAGE = f"{TOWER} provision vault --offline --username al --image"
SPEAKING = ("version", "version --json", "mdhelp", "--help", "status --help", "completion zsh", "status --json")
"""Commands whose output is the result; of a few bytes, and of more than a buffer has."""
UNWRITTEN = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor", ">&- 2>&-": ""}


def shell(home: Path, line: str, *, gone: bool = False, **env: str) -> tuple[int, str]:
    """The exit status of a command line, and what it wrote but for its standard output; $GONE is a pipe that nobody reads."""
    ends = os.pipe()
    os.close(ends[0])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    argv = ["bash", "-c", line]
    clean |= {"HOME": str(home), "LANG": "C.UTF-8", "GONE": str(ends[1]), **env}
    try:
        done = subprocess.run(
            argv, capture_output=True, cwd=home, env=clean, pass_fds=ends[1:] if gone else (), timeout=60, check=False
        )
    finally:
        os.close(ends[1])
    said = done.stderr.decode(errors="replace")
    assert "Traceback" not in said
    assert "Exception" not in said
    return done.returncode, said


@pytest.mark.parametrize("where", UNWRITTEN)
@pytest.mark.parametrize(("command", "unbuffered"), [*((command, "") for command in SPEAKING), ("version", "1"), ("--help", "1")])
def test_a_result_that_cannot_be_written_is_an_error(home: Path, command: str, where: str, unbuffered: str) -> None:
    status, said = shell(home, f"{TOWER} {command} {where}", PYTHONUNBUFFERED=unbuffered)
    assert status == 12
    assert UNWRITTEN[where] in said
    if UNWRITTEN[where]:
        assert said.startswith("tower")
        assert "standard output" in said.splitlines()[0]


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("command", ["mdhelp", "--help", "completion zsh", "version", "status --json"])
def test_a_reader_that_left_is_no_error(home: Path, command: str, stream: str) -> None:
    command = command if stream == "1" else "status"
    status, said = shell(home, f'{TOWER} {command} {stream}>&"$GONE"', gone=True)
    assert (status, said) == (141, "")


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "<&-"])
def test_progress_may_go_unread(home: Path, where: str) -> None:
    assert shell(home, f"{TOWER} status {where}")[0] == 0
    assert shell(home, f"{TOWER} version {where}")[0] == 0


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_an_error_has_its_status_even_if_it_is_not_heard(home: Path, where: str) -> None:
    assert shell(home, f"{TOWER} deprovision web --yes {where}")[0] == 11
    assert shell(home, f"{TOWER} nothing {where}")[0] == 2


def test_files_never_get_the_number_of_what_is_closed(tower: Tower, home: Path, settings: TowerEnv) -> None:
    """What is then written to the output would be written into them."""
    add(tower, settings, "vault")
    before = {path: path.read_bytes() for path in tower.folder.rglob("*") if path.is_file() and path.name != "config"}
    shell(home, f"{TOWER} status --json --timeout 0.5 <&- >&- 2>&-")
    shell(home, f"{TOWER} run --timeout 0.5 vault true <&- >&- 2>&-")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_characters_outside_the_encoding_are_shown_as_escapes(home: Path, encoding: str) -> None:
    status, said = shell(home, f"{IMAGE} 'Café ☕.img'", PYTHONIOENCODING=encoding)
    assert status == 13
    assert "Caf" in said
    assert "\\u2615" in said
    assert shell(home, f"{TOWER} mdhelp", PYTHONIOENCODING=encoding)[0] == 0


def test_bytes_that_are_no_text_are_shown(home: Path) -> None:
    status, said = shell(home, f"{IMAGE} $'caf\\xe9.img'")
    assert status == 13
    assert "caf?.img" in said


def test_a_line_without_end_is_not_read_to_its_end(home: Path) -> None:
    line = f"{TOWER} provision router --wlan-ssid Home --username al --image {home}/none </dev/zero"
    assert shell(home, line)[0] == 13
