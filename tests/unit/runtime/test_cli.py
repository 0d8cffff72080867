# SPDX-License-Identifier: Apache-2.0
"""The command line: fast to start, one error at a time, exit statuses, completion."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tower.base import errors
from tower.base.errors import StoppedError, TowerError
from tower.base.view import View
from tower.cli import main
from tower.cli.commands import doctor, provision, version
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Host, Tower

from tests.unit.runtime.test_sshconf import add

SLOW = ("rich", "tqdm", "cryptography", "shtab", "subprocess", "socket", "json", "ssl", "asyncio", "xml", "hashlib", "tempfile")


def loaded(*argv: str) -> set[str]:
    """Modules that a `tower` with these arguments has loaded when it ends."""
    code = (
        "import sys\nfrom tower.cli import main as cli\ntry:\n cli.main(sys.argv[1:])\nexcept SystemExit:\n pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True, timeout=30)
    return {name.partition(".")[0] for name in done.stderr.splitlines()}


def test_help_loads_nothing_that_is_slow() -> None:
    assert not loaded("--help").intersection(SLOW)


def test_version_loads_no_package_of_others() -> None:
    assert not loaded("version").intersection({"rich", "tqdm", "cryptography", "shtab", "subprocess", "ssl", "asyncio"})


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main([name, "--help"])
    assert raised.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: tower {name}" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for word in (*main.COMMANDS, "dry-run"):
        assert word in out


def raising(error: BaseException) -> object:
    def execute(args: object) -> int:
        raise error

    return execute


def test_an_error_is_shown_once_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(version, "execute", raising(TowerError("what went wrong", hint="what to do")))
    assert main.main(["version"]) == 1
    assert capsys.readouterr().err == "tower version: what went wrong\n  hint: what to do\n"


def test_shown_text_has_no_control_sequences(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a server's\x1b]0;title\x07 \x9b2J\r words\udcff"
    monkeypatch.setattr(version, "execute", raising(TowerError(odd, hint=odd)))
    assert main.main(["version"]) == 1
    View().say(odd)
    View().show({"text": odd})
    said = "".join(capsys.readouterr())
    assert said.count("a server's?]0;title? ?2J? words?") == 4
    assert all(char.isprintable() for char in said.replace("\n", ""))


def test_signals_have_their_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status in ((KeyboardInterrupt(), 130), (StoppedError(15), 143), (BrokenPipeError(), 141)):
        monkeypatch.setattr(version, "execute", raising(error))
        assert main.main(["version"]) == status


def test_statuses_are_distinct() -> None:
    """A kind of its own has a status of its own; what is a kind of a kind has that one's."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TowerError)]
    own = [kind for kind in kinds if kind.__base__ in (Exception, TowerError) and kind is not StoppedError]
    statuses = [kind.exit_status for kind in own]
    assert len(set(statuses)) == len(statuses)
    assert 2 not in statuses


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["provision", "Web"], 10, "not a host name"),
        (["provision", "../web"], 10, "not a host name"),
        (["provision", "thinclient"], 10, "cannot name a host"),
        (["provision", "web"], 11, "none yet"),
        (["provision", "router", "--offline"], 10, "online"),
        (["provision", "router"], 10, "Wi-Fi"),
        (["provision", "web", "--offline", "--wlan-ssid", "Home"], 10, "Wi-Fi"),
        (["provision", "web", "--offline", "--username", "root"], 10, "root"),
        (["provision", "web", "--offline", "--username", "al", "--timezone", "../x"], 10, "time zone"),
        (["provision", "web", "--offline", "--username", "al", "--keyboard-layout", "US"], 10, "keyboard"),
        (["provision", "web", "--offline", "--username", "al", "--lang", "$(id)"], 10, "locale"),
        (["provision", "web", "--offline", "--username", "al", "--size", "4G"], 10, "--device-file"),
        (["provision", "web", "--offline", "--username", "al"], 13, "no image"),
        (["provision", "web", "--offline", "--username", "al", "--image", "none.img"], 13, "no such image"),
        (["provision", "web", "--resume"], 11, "no such host"),
        (["deprovision", "web"], 11, "no such host"),
        (["deprovision", "."], 10, "not a host name"),
    ],
)
def test_refused_commands_have_their_status_and_make_no_files(
    home: Path, capsys: pytest.CaptureFixture[str], argv: list[str], status: int, said: str
) -> None:
    assert main.main(argv) == status
    assert said in capsys.readouterr().err
    assert not (home / ".local").exists()


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e300", "x", ""])
@pytest.mark.parametrize("words", [("run", "web", "true"), ("status",), ("provision", "web"), ("reboot", "web"), ("audit",)])
def test_invalid_times(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main([words[0], f"--timeout={text}", *words[1:]])
    assert raised.value.code == 2
    assert f"invalid seconds value: {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "4", "G", "-4G", "4.5G", "0G", "4GB", "1025T", "1" * 9 + "G"])
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(Exception, match="not a size"):
        provision._size(text)


def test_the_commands_start_is_quick() -> None:
    """The requirement is 150 ms; here only that nothing makes it many times slower, whatever else the machine does."""
    best = 10.0
    for _ in range(5):
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-P", "-m", "tower", "--help"], capture_output=True, check=True, timeout=30, env={**os.environ}
        )
        best = min(best, time.monotonic() - start)
    assert best < 0.6


def test_a_signal_ends_doctor_at_the_first_host(tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(_tower: Tower, host: Host, *, timeout: float) -> None:
        asked.append(host.name)
        raise StoppedError(15)

    monkeypatch.setattr(doctor, "connect", connect)
    add(tower, settings, "router", online=True)
    add(tower, settings, "web", online=True)
    assert main.main(["doctor", "gui"]) == 128 + 15
    assert asked == ["router"]
