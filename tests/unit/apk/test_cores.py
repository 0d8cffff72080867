# SPDX-License-Identifier: Apache-2.0
"""Work on all cores: the order is kept, and a worker that dies, or a caller that stops early, costs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.apk.cli.cores import each
from pipeline.base.errors import FormatError

SOME = list(range(40))
HERE = os.getpid()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three workers, whatever this machine has; none of them, and none of their pipes, is left at the end."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    before = open_files(), children()
    yield
    assert (open_files(), children()) == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    """The processes that this one has started, whatever other tests have left, and that it has not waited for."""
    return set(Path(f"/proc/self/task/{HERE}/children").read_text().split())


def square(number: int) -> dict[str, object]:
    return {"number": number, "square": number * number, "here": os.getpid() == HERE}


def wanted(numbers: list[int], *, here: bool) -> list[dict[str, object]]:
    return [{"number": number, "square": number * number, "here": here} for number in numbers]


@pytest.mark.parametrize("sizes", [SOME, SOME[::-1], [0] * len(SOME)])
def test_the_order_is_that_of_the_items(sizes: list[int]) -> None:
    assert list(each(SOME, square, sizes)) == wanted(SOME, here=False)


def test_few_items_are_done_here() -> None:
    for count in range(4):
        assert list(each(SOME[:count], square, SOME[:count])) == wanted(SOME[:count], here=True)


def test_with_one_core_all_work_is_done_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert list(each(SOME, square, SOME)) == wanted(SOME, here=True)


def test_the_largest_items_are_done_first(tmp_path: Path) -> None:
    """One worker alone would be seen to take them by size; of three the first three are the largest three."""
    log = tmp_path / "log"

    def note(number: int) -> dict[str, object]:
        with log.open("a") as stream:
            stream.write(f"{number}\n")
        return {}

    list(each(SOME, note, SOME))
    done = [int(line) for line in log.read_text().split()]
    assert sorted(done) == SOME
    assert set(done[:1]) <= set(SOME[-3:])


def test_more_items_than_the_queue_holds() -> None:
    many = list(range(40_000))
    assert [row["number"] for row in each(many, square, many)] == many


def test_results_larger_than_a_pipe() -> None:
    def large(number: int) -> dict[str, object]:
        return {"data": bytes([number]) * 300_000}

    assert [row["data"] for row in each(SOME, large, SOME)] == [bytes([number]) * 300_000 for number in SOME]


@pytest.mark.parametrize("victims", [{7}, {0, 39}, set(SOME)])
def test_a_killed_workers_items_are_done_here(victims: set[int]) -> None:
    def deadly(number: int) -> dict[str, object]:
        if number in victims and os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return square(number)

    found = list(each(SOME, deadly, SOME))
    assert [row["square"] for row in found] == [number * number for number in SOME]
    assert all(found[number]["here"] for number in victims)


def test_an_error_reaches_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    def failing(number: int) -> dict[str, object]:
        if number == 20:
            raise FormatError("item 20")
        return square(number)

    found = []
    with pytest.raises(FormatError, match="item 20"):
        for row in each(SOME, failing, SOME):
            found.append(row["number"])
    assert found == SOME[:20]
    assert capfd.readouterr().err == "", "a worker says nothing: its item is done again, where the error is shown"


@pytest.mark.parametrize("size", [1, 300_000])
def test_a_caller_that_stops_early(size: int) -> None:
    def heavy(number: int) -> dict[str, object]:
        return {"data": b"x" * size}

    for number, _ in enumerate(each(SOME * 1000, heavy, [0] * len(SOME) * 1000)):
        if number == 2:
            break


def test_no_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[], int] = os.fork
    forks = []

    def fork() -> int:
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError("no more processes")
        return real()

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(BlockingIOError):
        list(each(SOME, square, SOME))
