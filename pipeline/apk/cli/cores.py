# SPDX-License-Identifier: Apache-2.0
"""One function over many items on all cores, in forked workers, which start quickly.

Verifying packages by `concurrent.futures` took 2.4 times as long for 10 small files, about as long for 100 small ones, and 1.3
times as long for 100 small and large ones, in the same run.
"""

from __future__ import annotations

import marshal
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")

_HEAD = 4
_FEW = 4


def each(items: Sequence[Item], work: Callable[[Item], dict[str, object]], sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield `work` of each item, in the order of the items; results hold plain values only.

    A worker that becomes free takes the largest item left. If a worker is killed, its item is done again in this process.
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
    ours = [queue_out, queue_in]
    try:
        for _ in range(cores):
            result_out, result_in = os.pipe()
            try:
                child = os.fork()
            except OSError:
                ours += (result_out, result_in)
                raise
            if not child:
                _serve(queue_out, result_in, (queue_in, result_out, *workers), items, work)
            os.close(result_in)
            workers[result_out] = child
        os.close(ours.pop(0))
        os.set_blocking(queue_in, False)
        yield from _collect(items, work, workers, (ours, order))
    finally:
        # Close all pipes before waiting for any worker: one that is waiting for work, or writing, ends by that.
        for pipe in (*ours, *workers):
            os.close(pipe)
        for child in workers.values():
            os.waitpid(child, 0)


def _serve(
    queue_out: int, result_in: int, others: Sequence[int], items: Sequence[Item], work: Callable[[Item], dict[str, object]]
) -> None:
    """Run a worker: it reads numbers of items and writes results. `others` are pipe ends of the parent alone."""
    status = 1
    try:
        for pipe in others:  # otherwise no worker would notice that the parent has gone
            os.close(pipe)
        while number := os.read(queue_out, _HEAD):
            data = marshal.dumps((int.from_bytes(number, "big"), work(items[int.from_bytes(number, "big")])))
            data = len(data).to_bytes(_HEAD, "big") + data
            while data:
                data = data[os.write(result_in, data) :]
        status = 0
    finally:
        os._exit(status)


def _readable(pipes: Iterable[int], milliseconds: int | None) -> list[int]:
    """Return the pipes that can be read, or have ended. By poll(2), since select(2) takes no descriptor above 1023."""
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, select.POLLIN)
    return [pipe for pipe, _ in poll.poll(milliseconds)]


def _collect(
    items: Sequence[Item],
    work: Callable[[Item], dict[str, object]],
    workers: dict[int, int],
    queue: tuple[list[int], Sequence[int]],
) -> Iterator[dict[str, object]]:
    buffers = dict.fromkeys(workers, b"")
    done: dict[int, dict[str, object]] = {}
    given = shown = 0
    while buffers:
        if queue[0]:
            given = _give(*queue, given)
        for result_out in _readable(buffers, 50 if queue[0] else None):
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


def _give(queue_in: list[int], order: Sequence[int], given: int) -> int:
    """Put the numbers of more items into the queue, and close it after the last; return how many it has been given."""
    try:
        while given < len(order):
            os.write(queue_in[0], order[given].to_bytes(_HEAD, "big"))
            given += 1
    except BlockingIOError:
        return given
    except BrokenPipeError:  # no worker is left
        pass
    os.close(queue_in.pop())
    return given
