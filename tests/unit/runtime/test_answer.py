# SPDX-License-Identifier: Apache-2.0
"""Receipts, and what hosts answer: garbage is named, and never believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower import receipt
from tower.answer import _MARK, Answer, check_receipt, parse_answer
from tower.errors import AnswerError, StateError
from tower.receipt import Receipt, Stage, Target

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
def test_receipts_that_are_none(change: dict[str, object]) -> None:
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
    for answer in (data, text_of("") + data):
        try:
            parse_answer(answer, "web")
        except AnswerError:
            pass


def test_a_host_of_an_older_provisioning(tmp_path: Path) -> None:
    check_receipt(Answer("x", ""), ID, "web")
    check_receipt(Answer("x", ID), ID, "web")
    with pytest.raises(AnswerError, match="older disk"):
        check_receipt(Answer("x", "f" * 32), ID, "web")
