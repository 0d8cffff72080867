# SPDX-License-Identifier: Apache-2.0
"""What hosts say about themselves: the real answer of a real shell is read, everything else is refused."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import AnswerError
from tower.status import report
from tower.status.report import HostReport

BOOT = "b41b6078-c781-483d-9dc2-35e6cc57e10b"
LINES = (
    f"boot {BOOT}",
    "uptime 12712.76",
    "load 0.08",
    "memory 1000",
    "available 400",
    'system "TowerOS host 1.0 (lab)"',
    "version 1.0",
    "temperature 41234",
    "temperature 50500",
    "packages 61",
    "disk 2000 500",
)


def text_of(*lines: str) -> bytes:
    return "\n".join(["tower-status 1", *lines, "end", ""]).encode()


def test_an_answer() -> None:
    assert report.parse(text_of(*LINES)) == HostReport(
        boot=BOOT,
        uptime=12712.76,
        load=0.08,
        memory=1000 << 10,
        memory_used=600 << 10,
        disk=2000 << 10,
        disk_used=500 << 10,
        temperature=50.5,
        packages=61,
        system="TowerOS host 1.0 (lab)",
        version="1.0",
    )


def test_optional_lines_may_be_missing() -> None:
    found = report.parse(
        text_of(*(line for line in LINES if line.split()[0] not in ("system", "version", "temperature", "packages")))
    )
    assert (found.system, found.version, found.temperature, found.packages) == ("", "", None, None)


@pytest.mark.parametrize("shell", [["sh"], ["bash"], ["busybox", "sh"]], ids=lambda words: words[0])
def test_shells_answer_each_line_of_input_once(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]} here")
    done = subprocess.run([*shell, "-c", report.QUESTION], input=b"\n\n", capture_output=True, check=False, timeout=30)
    first, end, rest = done.stdout.partition(b"\nend\n")
    assert done.stderr == b""
    for answer in (first + end, rest):
        assert report.is_whole(answer)
        assert report.parse(answer).memory > 0


@pytest.mark.parametrize("name", ["boot", "uptime", "load", "memory", "available", "disk"])
def test_a_report_without_a_required_line_is_refused(name: str) -> None:
    with pytest.raises(AnswerError, match=name):
        report.parse(text_of(*(line for line in LINES if not line.startswith(name))))


@pytest.mark.parametrize(
    "change",
    [
        "uptime -1.0", "uptime 1", "uptime 1.0 2", "uptime 99999999999.0", "load nan", "load 1e9", "memory 0x10", "memory ١",
        "memory 12 3", "available 1001", "disk 2000", "disk 1 2", "disk 2000 500 ", "packages -1", "packages 9999999",
        "temperature 1234567", "temperature hot", "version 1 0", "version $(id)", "version", "system", "system \x1b[2J",
        "system \u202ex", "system " + "x" * 101, "boot x", f"boot {BOOT.upper()}", "color red", "", " ", "end", "tower-status 1",
    ],
)  # fmt: skip
def test_invalid_lines(change: str) -> None:
    kept = (line for line in LINES if line.split()[0] != change.partition(" ")[0])
    with pytest.raises(AnswerError):
        report.parse(text_of(*kept, change))


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("temperature")])
def test_nothing_is_reported_twice(line: str) -> None:
    with pytest.raises(AnswerError, match="twice"):
        report.parse(text_of(*LINES, line))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"hello\n", text_of(*LINES)[:-1], text_of(*LINES)[1:], b"x" + text_of(*LINES), text_of(*LINES) + b"x\n",
     text_of(*LINES).replace(b"\n", b"\r\n"), text_of(*LINES) * 2, text_of(*LINES, *["temperature 1"] * 1000),
     text_of(*LINES).replace(b"lab", b"\xff"), b"tower-status 2\nend\n", text_of(*LINES).replace(b"lab", b"\0")],
)  # fmt: skip
def test_invalid_answers(data: bytes) -> None:
    with pytest.raises(AnswerError):
        report.parse(data)


@given(st.binary(max_size=400), st.integers(0, 12))
def test_any_bytes_are_refused_or_read(data: bytes, place: int) -> None:
    lines = text_of(*LINES).splitlines(keepends=True)
    for said in (data, b"".join([*lines[:place], data, *lines[place:]])):
        try:
            found = report.parse(said)
        except AnswerError as error:
            assert error.message.isprintable()
        else:
            assert found.system.isprintable()
            assert 0 <= found.memory_used <= found.memory


@given(st.text(max_size=200), st.sampled_from(LINES))
def test_any_text_in_a_line_is_refused_or_read(text: str, line: str) -> None:
    name = line.partition(" ")[0]
    try:
        found = report.parse(text_of(*(one for one in LINES if one != line), f"{name} {text}"))
    except AnswerError:
        return
    assert found.version.isprintable()
    assert found.system.isprintable()
