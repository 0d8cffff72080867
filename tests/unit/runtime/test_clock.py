# SPDX-License-Identifier: Apache-2.0
"""What hosts call the time, and which times are believed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import AnswerError, GarbageError
from tower.status import clock
from tower.status.clock import Reading

SHELLS = [["sh"], ["busybox", "sh"]]


@pytest.mark.parametrize(
    ("line", "seconds", "error"),
    [
        ("1795423675.974673000", 1795423675.974673, 0),
        ("1795423675", 1795423675.5, 0.5),
        ("status: 64 (UNSYNC) time.tv_sec: 1795423675 time.tv_usec: 974673", 1795423675.974673, 0),
        ("status: 8193 (PLL | NANO) time.tv_sec: 1795423675 time.tv_usec: 974673000", 1795423675.974673, 0),
        ("status: 8193 time.tv_sec: 1795423675 time.tv_usec: 974673", 1795423675.000974673, 0),
    ],
)
def test_times(line: str, seconds: float, error: float) -> None:
    found, by = clock.parse_time(line, "web")
    assert abs(found - seconds) < 1e-6
    assert by == error


@pytest.mark.parametrize(
    "line",
    ["", "x", "-1", "1.5", "1e9", "0x10", "1795423675.%N", "1795423675.9746730001", "9" * 13, "١٢",
     "status: 64 time.tv_sec: 1 time.tv_usec: 1000000", "status: 8192 time.tv_sec: 1 time.tv_usec: 1000000000",
     "time.tv_sec: 1 time.tv_usec: 1", "status: x time.tv_sec: 1 time.tv_usec: 1",
     "status: 64 time.tv_usec: 1 time.tv_sec: 1", "1795423675 "],
)  # fmt: skip
def test_no_times(line: str) -> None:
    with pytest.raises(GarbageError, match="web: its answer is not a time"):
        clock.parse_time(line, "web")


@given(st.text(max_size=80))
def test_any_text_is_a_time_or_refused(line: str) -> None:
    try:
        seconds, error = clock.parse_time(line, "web")
    except GarbageError as refused:
        assert refused.message == "web: its answer is not a time"
    else:
        assert 0 <= seconds < 1e12
        assert error in (0, 0.5)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_shells_tell_the_time_line_by_line(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]} here")
    done = subprocess.run([*shell, "-c", clock._READ], input=b"\n\n", capture_output=True, check=True, timeout=30)
    for line in done.stdout.decode().splitlines():
        assert abs(clock.parse_time(line, "web")[0] - time.time()) < 10
    assert len(done.stdout.splitlines()) == 2


def test_the_adjtimex_of_busybox_is_understood(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("no busybox here")
    for name in ("date", "adjtimex", "grep"):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec busybox {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", clock._READ], input=b"\n", capture_output=True, check=True, timeout=30, env={"PATH": path})
    seconds, error = clock.parse_time(done.stdout.decode().strip(), "web")
    assert abs(seconds - time.time()) < 5
    assert error == 0


@pytest.mark.parametrize("line", ["", "1;id", "-1", "$(id)", "1 2", "1.5", "now"])
def test_the_setter_takes_whole_seconds_only(tmp_path: Path, line: str) -> None:
    (tmp_path / "date").write_text('#!/bin/sh\necho "$@" >>"$0.called"\n')
    (tmp_path / "date").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", clock._SET],
        input=f"{line}\n".encode(),
        capture_output=True,
        check=False,
        timeout=30,
        env={"PATH": f"{tmp_path}"},
    )
    assert (done.stdout, done.returncode) == (b"ready\n", 1)
    assert not (tmp_path / "date.called").exists()


def test_times_before_the_release_or_too_far_ahead_are_refused(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    assert clock.earliest(release) == clock._EARLIEST
    for text, wanted in (
        ("TOWER_EPOCH=1900000000", 1900000000),
        ("TOWER_EPOCH=5", clock._EARLIEST),
        ("TOWER_EPOCH=x", clock._EARLIEST),
    ):
        release.write_text(f"NAME=TowerOS\n{text}\n")
        assert clock.earliest(release) == wanted
    clock.check_sane("router", 1900000001, 1900000000)
    for seconds in (-5.0, 0.0, 1899999999.0, 1900000000.0 + 31 * 365 * 86400, 1e12):
        with pytest.raises(AnswerError, match="router: its clock shows"):
            clock.check_sane("router", seconds, 1900000000)


def test_a_clock_is_off_beyond_the_tolerance_and_the_uncertainty() -> None:
    assert not clock.is_off(Reading(10.04, 0.001), Reading(10.0, 0.001))
    assert clock.is_off(Reading(10.06, 0.001), Reading(10.0, 0.001))
    assert not clock.is_off(Reading(10.06, 0.04), Reading(10.0, 0.04))
