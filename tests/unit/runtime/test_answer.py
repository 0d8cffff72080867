# SPDX-License-Identifier: Apache-2.0
"""Receipts, and what hosts answer: garbage is named, and never believed."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base import proc
from tower.base.errors import AnswerError, StateError
from tower.base.proc import Done
from tower.base.view import View
from tower.disk import receipt
from tower.disk.receipt import Receipt, Stage, Target
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Host, Tower
from tower.provision import answer
from tower.provision.answer import _MARK, Answer, check_receipt, parse_answer

ID = "0123456789abcdef" * 2
FIRST = Receipt(
    ID, "web", Stage.PREPARED, "/x.img", "0" * 64, "1.0", "lab", Target("/dev/sdb", 10**9, "S1", "Stick", "usb"), receipt.now()
)


def text_of(rest: str) -> bytes:
    return f'NAME=x\nPRETTY_NAME="TowerOS host 1.0 (lab)"\n\n{_MARK}\n{rest}'.encode()


def test_a_receipt_goes_through_its_stages() -> None:
    written = FIRST.at(Stage.WRITTEN)
    answered = written.at(Stage.ANSWERED, system="TowerOS")
    for found in (FIRST, written, answered):
        assert receipt.parse(found.dump(), "x") == found
    assert written.written
    assert answered.written == written.written
    assert answered.system == "TowerOS"


def test_the_host_is_not_told_about_the_thin_clients_files() -> None:
    assert set(json.loads(FIRST.public)) == {"schema", "id", "host", "version", "channel", "image_sha256"}


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"id": "x"}, {"stage": "done"}, {"target": {}}, {"target": None}, {"more": 1}, {"image": 1}, {"id": None}],
)
def test_invalid_receipts(change: dict[str, object]) -> None:
    with pytest.raises(StateError):
        receipt.parse(json.dumps({**json.loads(FIRST.dump()), **change}).encode(), "x")


@given(st.binary(max_size=200))
def test_any_bytes_are_no_receipt(data: bytes) -> None:
    with pytest.raises(StateError):
        receipt.parse(data, "x")


def test_answers() -> None:
    assert parse_answer(text_of(""), "web") == Answer("TowerOS host 1.0 (lab)", "")
    assert parse_answer(text_of(FIRST.public.decode()), "web") == Answer("TowerOS host 1.0 (lab)", ID)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello\n",
        f"\n{_MARK}\n".encode(),
        text_of("{"),
        text_of("[]"),
        text_of("{}"),
        text_of("[" * 5000),
        text_of(json.dumps({"id": "\x1b[2J"})),
        text_of(json.dumps({"id": [1]})),
        text_of("") + b"x" * 100_000,
        text_of("").replace(b"TowerOS", b"\x1b[2J"),
        text_of("").replace(b"TowerOS", b"x" * 300),
    ],
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(AnswerError, match="web"):
        parse_answer(data, "web")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for said in (data, text_of("") + data):
        try:
            parse_answer(said, "web")
        except AnswerError:
            pass


class Line:
    """A connection that was made, to an ssh server."""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None: ...

    def settimeout(self, _: float) -> None: ...

    def recv(self, most: int) -> bytes:
        return b"SSH-2.0-OpenSSH_9.9\r\n"[:most]


def waited(tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch, *answers: OSError | Done) -> Answer:
    """What `wait_for` makes of a row of answers: errors of the network, or what ssh leaves."""
    left = list(answers)

    def connect(*_: object, **__: object) -> Line:
        if isinstance(left[0], OSError):
            found = left.pop(0) if len(left) > 1 else left[0]
            assert isinstance(found, OSError)
            raise found
        return Line()

    def run(*_: object, **__: object) -> Done:
        found = left.pop(0) if len(left) > 1 else left[0]
        assert isinstance(found, Done)
        return found

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(proc, "run", run)
    quick = partial(time.sleep, 0.05)
    return answer.wait_for(Host(tower.folder, settings), tower, limit=0.3, view=View(), sleep=lambda _: quick())


def test_a_host_that_never_stops_talking_is_waited_for_and_no_longer(
    tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec cat /dev/zero\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Line())
    with pytest.raises(AnswerError, match=r"no answer within 0 s: .*valid answer"):
        answer.wait_for(Host(tower.folder, settings), tower, limit=0, view=View(), sleep=lambda _: None)


def refused(said: str) -> Done:
    return Done(255, b"", said.encode())


def test_a_host_that_comes_up_is_waited_for(
    tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (TimeoutError(), ConnectionRefusedError(), refused("Permission denied (publickey)"), Done(0, text_of(""), b""))
    assert waited(tower, settings, monkeypatch, *steps).system == "TowerOS host 1.0 (lab)"
    said = capsys.readouterr().err
    assert [word for word in ("waiting for", "is not running yet", "the key yet", "TowerOS") if word in said] == [
        "waiting for", "is not running yet", "the key yet", "TowerOS",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (TimeoutError(), "no answer within"),
        (refused("Permission denied (publickey)"), "accept the key"),
        (refused("kex_exchange_identification: read: Connection reset"), "no answer within"),
        (refused("Host key verification failed."), "another host key"),
        (Done(0, b"garbage", b""), "not a description"),
    ],
)
def test_hosts_that_never_answer_as_they_should(
    tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch, last: OSError | Done, reason: str
) -> None:
    with pytest.raises(AnswerError, match=reason):
        waited(tower, settings, monkeypatch, last)


def test_a_host_of_an_older_provisioning(tmp_path: Path) -> None:
    check_receipt(Answer("x", ""), ID, "web")
    check_receipt(Answer("x", ID), ID, "web")
    with pytest.raises(AnswerError, match="older disk"):
        check_receipt(Answer("x", "f" * 32), ID, "web")
