# SPDX-License-Identifier: Apache-2.0
"""`tower status`: reasons, rows and the table, without a network."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tower.base.names import HostName
from tower.cli import board, main
from tower.cli.commands import status as command
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Host
from tower.status import status
from tower.status.report import HostReport
from tower.status.status import State, Status

REPORT = HostReport("b", 93784.0, 0.5, 4 << 30, 1 << 30, 10 << 30, 19 << 29, 81.2, 61, "TowerOS host 1.0 (lab)", "1.0")


@pytest.fixture
def host(settings: TowerEnv, tmp_path: Path) -> Host:
    return Host(tmp_path, settings)


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ("ssh: connect to host 192.168.2.200 port 22: Connection timed out\r\n", "down", "nothing answers"),
        ("ssh: connect to host 192.168.2.200 port 22: No route to host\r\n", "down", "nothing answers"),
        ("ssh: connect to host 192.168.2.200 port 22: Connection refused\r\n", "down", "its ssh server is not"),
        ("Connection timed out during banner exchange\r\n", "strange", "is silent"),
        ("al@192.168.2.200: Permission denied (publickey).\r\n", "strange", "does not accept the key"),
        ("Host key verification failed.\r\n", "strange", "another host key"),
        ("kex_exchange_identification: Connection closed by remote host\r\n", "strange", "closed"),
        ("", "strange", "could not be reached"),
        ("\x1b[2J\x07odd", "strange", "could not be reached"),
    ],
)
def test_reasons(host: Host, said: str, state: str, reason: str) -> None:
    found, text = status.explain(host, said)
    assert found == State(state)
    assert reason in text
    assert text.isprintable()
    assert not text.startswith("web:")


def shown(*found: Status, hosts: tuple[Host, ...], width: int = 160) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(board.table(hosts, {one.host.name: one for one in found}, width=width))
    return out.getvalue()


def test_the_table(host: Host) -> None:
    off = Host(host.folder, replace(host.env, hostname=HostName("mail")))
    text = shown(
        Status(host, State.UP, "", 0.1, REPORT),
        Status(off, State.DOWN, "nothing answers at 192.168.2.200", 3.0),
        hosts=(host, off),
    )
    first, web, mail, reason = text.splitlines()
    assert " ".join(first.split()) == "host network state version packages up for load memory disk temperature"
    assert " ".join(web.split()) == "web online up 1.0 61 1 d 2 h 0.50 25% of 4.0 GiB 95% of 10.0 GiB 81 °C"
    assert mail.split() == ["mail", "online", "down"]
    assert reason.strip() == "mail: nothing answers at 192.168.2.200"


def test_a_narrow_terminal_has_fewer_columns_and_whole_ones(host: Host) -> None:
    first, web = shown(Status(host, State.UP, "", 0.1, REPORT), hosts=(host,), width=80).splitlines()
    assert " ".join(first.split()) == "host state version up for load memory disk temperature"
    assert " ".join(web.split()) == "web up 1.0 1 d 2 h 0.50 25% 95% 81 °C"
    assert len(first.rstrip()) < 80


def test_a_host_that_was_not_heard_yet(host: Host) -> None:
    assert "asked ..." in shown(hosts=(host,))


def test_texts_of_a_host_are_never_read_as_styles(host: Host) -> None:
    odd = replace(REPORT, version="[red]1[/red]")
    assert "[red]1[/red]" in shown(Status(host, State.UP, "", 0.1, odd), hosts=(host,))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90061, "1 d 1 h"), (9e6, "104 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert board.duration(seconds) == text


def test_rows_are_json(host: Host) -> None:
    up = command._row(Status(host, State.UP, "", 0.1234, REPORT))
    down = command._row(Status(host, State.DOWN, "why", 0.1))
    assert json.loads(json.dumps(up))["packages"] == 61
    assert (up["state"], up["seconds"], down["reason"]) == ("up", 0.123, "why")
    assert "memory" not in down


def test_no_hosts_is_no_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["status"]) == 0
    assert "tower provision router" in capsys.readouterr().err
    assert main.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"all_up": True, "hosts": []}


@pytest.mark.parametrize(
    ("argv", "exit_status", "said"),
    [
        (["status", "web"], 11, "no such host"),
        (["status", "../web"], 10, "not a host name"),
        (["status", "--timeout", "0"], 10, "--timeout"),
        (["status", "--interval", "400"], 10, "--interval"),
        (["run", "web", "true"], 11, "no such host"),
        (["poweroff"], 10, "--all"),
        (["poweroff", "web", "--all"], 10, "--all"),
        (["reboot", "web"], 11, "no such host"),
        (["synctime", "web"], 11, "no such host"),
        (["wlan-connect", "Home"], 11, "no such host"),
        (["wlan-connect", ""], 10, "Wi-Fi"),
        (["wlan-connect", "x" * 33], 10, "Wi-Fi"),
        (["wlan-connect", "Home", "--timeout", "0"], 10, "--timeout"),
    ],
)
def test_refused_commands_have_their_status_and_message(
    home: Path, capsys: pytest.CaptureFixture[str], argv: list[str], exit_status: int, said: str
) -> None:
    assert main.main(argv) == exit_status
    assert said in capsys.readouterr().err
