# SPDX-License-Identifier: Apache-2.0
"""What happens to a command whose output is closed, full, in another encoding, or not read to its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main as apk
from pipeline.apk.format.signature import generate_key
from tests.integration.conftest import Tiny

READER_GONE = 128 + signal.SIGPIPE
# What doit says itself, before and after it has read dodo.py, and what tasks say.
_ENTRY = (("--help",), ("list",), ("explain",), ("json=1", "lock"))
_KEYS = ("verify", "--keys", "keys")
_INFO = ("info", "a.apk")
_APK = (("--help",), ("solve", "--help"), _INFO, (*_INFO, "--json"), (*_KEYS, "a.apk"), (*_KEYS, "--json", "a.apk"))


def shell(words: Sequence[str], to: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command with its output redirected as a shell does it."""
    argv = ["/bin/bash", "-c", f'exec "$@" {to}', "bash", *words]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def without_numbers(text: str) -> str:
    """What is printed, without the seconds it took."""
    return re.sub(r"[0-9.]+", "0", text)


def reader_leaves(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run a command whose output nobody reads; its status as a shell has it, and what it says on stderr."""
    with subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        said = command.stderr.read().decode()
        status = command.wait(60)
    return status if status >= 0 else 128 - status, said


def check_all(command: Sequence[str], every: Sequence[Sequence[str]], folder: Path, env: Mapping[str, str]) -> None:
    """Each of the commands, with each kind of output."""
    refused = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor"}
    for words in every:
        argv = (*command, *words)
        for to, why in refused.items():
            done = shell(argv, to, folder, {**env, "PYTHONUNBUFFERED": "1"} if "--help" in words else env)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert (done.returncode, errors) == (1, [f"error: standard output: {why}"]), (words, done.stderr)
        good = shell(argv, "", folder, env)
        assert good.returncode == 0, good.stderr
        for to in ("2>&- <&-", "2>/dev/full"):
            done = shell(argv, to, folder, env)
            assert (done.returncode, without_numbers(done.stdout)) == (0, without_numbers(good.stdout)), (words, to)
        done = shell(argv, "", folder, {**env, "PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        if "--json" in words:
            assert json.loads(done.stdout) == json.loads(good.stdout)


def test_doit_reports_an_output_that_cannot_be_written(tiny: Tiny) -> None:
    tiny.doit("lock")
    check_all((str(tiny.folder / "ci" / "doit"),), _ENTRY, tiny.folder, tiny.environment)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a signed package and its key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    generate_key(tmp_path / "keys", "a", bits=2048)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "grün").write_text("x")
    (tmp_path / "info").write_text("pkgname = a\npkgver = 1-r0\npkgdesc = grün\narch = noarch\n")
    assert apk(["pack", "--info", "info", "--root", "tree", "--key", "keys/a.rsa", "-o", "a.apk"]) == 0
    return tmp_path


def test_the_apk_command_reports_an_output_that_cannot_be_written(packages: Path, checkout: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    argv = (sys.executable, "-m", "pipeline.apk")
    check_all(argv, _APK, packages, env)
    for words in _APK:
        assert reader_leaves((*argv, *words), packages, env) == (READER_GONE, ""), words
    # Many files are checked by several processes.
    assert reader_leaves((*argv, *_KEYS, *["a.apk"] * 3000), packages, env) == (READER_GONE, "")


@pytest.mark.parametrize("words", [("list",), ("explain",), ("help", "task"), ("--help",)])
def test_a_reader_that_leaves(checkout: Path, words: tuple[str, ...]) -> None:
    """Listings end with their reader; what builds or tells of builds goes on."""
    status, said = reader_leaves((str(checkout / "ci" / "doit"), *words), checkout, os.environ)
    assert said == ""
    assert status == (0 if words == ("explain",) else READER_GONE)


def test_a_reader_that_leaves_plain_doit(checkout: Path) -> None:
    status, said = reader_leaves((sys.executable, "-m", "doit", "list"), checkout, os.environ)
    assert (status, said) == (READER_GONE, "")


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
def test_a_build_succeeds_and_reports_its_lost_output(tiny: Tiny, to: str) -> None:
    """The build succeeds and reports the lost output at the end: a full disk of the log does not spoil a build."""
    done = shell(tiny.command(), to, tiny.folder, tiny.environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: standard output: ") == 1
    assert "Traceback" not in done.stderr
    assert tiny.image == "one\ntwo\n"
    tiny.script("first", "seq 100000; cp /src/text/first /out/first")
    replay = shell(tiny.command("replay", "stage=first"), to, tiny.folder, tiny.environment)
    assert (replay.returncode, replay.stderr.count("error: ")) == (1, 1), replay.stderr
    status, said = reader_leaves(tiny.command("replay", "stage=first"), tiny.folder, tiny.environment)
    assert (status, "error" in said) == (0, False), said


def test_a_file_that_may_not_become_that_large(tiny: Tiny) -> None:
    tiny.script("first", "dd if=/dev/zero of=/out/first bs=1024 count=4096 2>/dev/null")
    limited = ["/bin/bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", *tiny.command()]
    done = subprocess.run(
        limited, cwd=tiny.folder, env=tiny.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 16, done.stderr
    assert "File too large" in done.stderr
    assert "hint: a file may not become that large: see `ulimit -f`" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
