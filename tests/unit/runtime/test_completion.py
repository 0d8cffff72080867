# SPDX-License-Identifier: Apache-2.0
"""What each shell offers: asked of the shells themselves, with a terminal where they want one."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tower.base.ready import readable
from tower.cli import main

_SHELLS = ("bash", "zsh", "fish")
_ASK = """\
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_tower tower "${@: -1}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What is typed, and what must, and must not, be offered.
LINES = [
    ("tower p", {"provision", "poweroff"}, {"status", "web"}),
    ("tower prov", {"provision"}, {"poweroff"}),
    ("tower deprovision w", {"web"}, {"vault", "wine"}),
    ("tower deprovision ", {"web", "vault"}, {"provision"}),
    ("tower status web v", {"vault"}, {"web"}),
    ("tower install web,v", {"web,vault"}, {"web,web"}),
    ("tower provision --dr", {"--dry-run"}, {"--yes"}),
    ("tower completion z", {"zsh"}, {"bash"}),
]


@pytest.fixture
def scripts(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a script a shell; in the home there are two hosts, and a file that looks like one."""
    for host in ("web", "vault"):
        (home / ".local" / "tower" / "hosts" / host).mkdir(parents=True)
    (home / ".local" / "tower" / "hosts" / "wine").write_text("no folder")
    for shell in _SHELLS:
        assert main.main(["completion", shell]) == 0
        (home / f"_tower.{shell}").write_text(capsys.readouterr().out)
    return home


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


@pytest.mark.qa("T20")
@pytest.mark.parametrize(("line", "wanted", "unwanted"), LINES)
def test_bash_offers(scripts: Path, line: str, wanted: set[str], unwanted: set[str]) -> None:
    argv = [need("bash"), "--norc", "-c", _ASK, "bash", str(scripts / "_tower.bash"), *line.split(" ")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, cwd=scripts)
    offered = set(done.stdout.split())
    assert wanted <= offered, done.stderr
    assert not offered & unwanted


@pytest.mark.qa("T20")
@pytest.mark.parametrize(("line", "wanted", "unwanted"), LINES)
def test_fish_offers(scripts: Path, line: str, wanted: set[str], unwanted: set[str]) -> None:
    argv = [need("fish"), "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"', str(scripts / "_tower.fish"), line]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, cwd=scripts)
    offered = {row.partition("\t")[0] for row in done.stdout.splitlines()}
    assert wanted <= offered, done.stderr
    assert not offered & unwanted


@pytest.mark.qa("T20")
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("tower prov", "tower provision"),
        ("tower deprovision w", "tower deprovision web"),
        ("tower status web v", "tower status web vault"),
        ("tower install web,v", "tower install web,vault"),
        ("tower provision --dr", "tower provision --dry-run"),
    ],
)
def test_zsh_completes(scripts: Path, typed: str, line: str) -> None:
    functions = scripts / "functions"
    functions.mkdir()
    (functions / "_tower").write_text((scripts / "_tower.zsh").read_text())
    with terminal([need("zsh"), "-f", "-i"], scripts) as shell:
        os.write(shell, b"PS1='ready> '; fpath=(~/functions $fpath); autoload -Uz compinit; compinit -u -D; print started\n")
        assert "started\r\n" in heard(shell, "started\r\n")
        # What stands on the line after the tab becomes an argument of a command that shows it.
        os.write(shell, f"{typed}\t".encode())
        heard(shell, line[len(typed) :], seconds=3)
        os.write(shell, b"\x01print -r -- '<\x05>'\n")
        assert f"\n<{line}" in heard(shell, f"\n<{line}")


@contextmanager
def terminal(argv: list[str], home: Path) -> Iterator[int]:
    pid, handle = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execve(argv[0], argv, {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb", "LC_ALL": "C.UTF-8"})
    try:
        yield handle
    finally:
        os.close(handle)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def heard(handle: int, until: str, seconds: float = 20) -> str:
    """What the terminal showed until some words came, or the time was up."""
    found, ends = "", time.monotonic() + seconds
    while until not in found and time.monotonic() < ends:
        if readable([handle], 0.1):
            found += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(handle, 65536).decode(errors="replace"))
    return found
