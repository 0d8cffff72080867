# SPDX-License-Identifier: Apache-2.0
"""One function over many items on all cores: forked workers, which cost next to nothing to start."""

from __future__ import annotations

import marshal
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")

_HEAD = 4
_FEW = 4


def each(items: Sequence[Item], work: Callable[[Item], dict[str, object]], sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    """`work` of each item, in the order of the items; results hold plain values only.

    Workers take the largest item left as they come free. An item whose worker was killed is done again here.
    """
    cores = len(os.sched_getaffinity(0))
    if cores < 2 or len(items) < _FEW:
        yield from map(work, items)
        return
    order = sorted(range(len(items)), key=lambda number: -sizes[number])
    yield from _spread(items, work, order, cores)


def _spread(
    items: Sequence[Item], work: Callable[[Item], dict[str, object]], order: Sequence[int], cores: int
) -> Iterator[dict[str, object]]:
    queue_out, queue_in = os.pipe()
    workers: dict[int, int] = {}
    try:
        for _ in range(cores):
            result_out, result_in = os.pipe()
            child = os.fork()
            if not child:
                _serve(queue_out, queue_in, result_in, items, work)
            os.close(result_in)
            workers[result_out] = child
        os.close(queue_out)
        os.set_blocking(queue_in, False)
        yield from _collect(items, work, workers, (queue_in, order))
    finally:
        for result_out, child in workers.items():
            os.close(result_out)
            os.waitpid(child, 0)


def _serve(
    queue_out: int, queue_in: int, result_in: int, items: Sequence[Item], work: Callable[[Item], dict[str, object]]
) -> None:
    """The life of a worker: numbers of items in, results out."""
    status = 1
    try:
        os.close(queue_in)
        while number := os.read(queue_out, _HEAD):
            data = marshal.dumps((int.from_bytes(number, "big"), work(items[int.from_bytes(number, "big")])))
            data = len(data).to_bytes(_HEAD, "big") + data
            while data:
                data = data[os.write(result_in, data) :]
        status = 0
    finally:
        os._exit(status)


def _collect(
    items: Sequence[Item], work: Callable[[Item], dict[str, object]], workers: dict[int, int], queue: tuple[int, Sequence[int]]
) -> Iterator[dict[str, object]]:
    buffers = dict.fromkeys(workers, b"")
    done: dict[int, dict[str, object]] = {}
    given = shown = 0
    open_queue = True
    while buffers:
        if open_queue:
            given, open_queue = _give(*queue, given)
        readable, _, _ = select.select(list(buffers), [], [], 0.05 if open_queue else None)
        for result_out in readable:
            data = os.read(result_out, 1 << 16)
            if not data:
                del buffers[result_out]
                continue
            buffers[result_out] += data
            while (end := _end(buffers[result_out])) and len(buffers[result_out]) >= end:
                number, result = marshal.loads(buffers[result_out][_HEAD:end])  # noqa: S302 (from our own worker)
                buffers[result_out] = buffers[result_out][end:]
                done[number] = result
        while shown in done:
            yield done.pop(shown)
            shown += 1
    for number in range(shown, len(items)):
        yield done.pop(number) if number in done else work(items[number])


def _end(buffer: bytes) -> int:
    return _HEAD + int.from_bytes(buffer[:_HEAD], "big") if len(buffer) >= _HEAD else 0


def _give(queue_in: int, order: Sequence[int], given: int) -> tuple[int, bool]:
    """Put the numbers of more items into the queue; how many are in it now, and whether it is still open."""
    try:
        while given < len(order):
            os.write(queue_in, order[given].to_bytes(_HEAD, "big"))
            given += 1
    except BlockingIOError:
        return given, True
    except BrokenPipeError:
        pass
    os.close(queue_in)
    return given, False
