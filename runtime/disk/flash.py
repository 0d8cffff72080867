# SPDX-License-Identifier: Apache-2.0
"""Write an image to a medium: unpack it on the fly, skip holes, and read everything back while writing.

Threads share a stock of buffers: one unpacks, one compares the image with its block map, one writes, a few read back
what was synced and compare it. A buffer is free again when both its digest and its comparison are done. Blocks that are
empty in the block map are skipped; `tower.disk.partition` later zeroes those that a file system uses.

An interrupted flash continues by comparing first: only differing data is written. So nothing about the medium has to
be remembered or trusted.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

from tower.base.errors import DeviceError, ImageProblemError
from tower.disk.medium import ALIGN, CHUNK, Medium, new_buffer, same
from tower.image.blockmap import AGAIN, BlockMap, MapCheck
from tower.image.unpack import unpacked

GAP: Final = 256 << 10
"""A hole smaller than this is written: that is as fast as skipping it."""
_BATCH: Final = 4
"""Buffers between two syncs: 16 MiB, read back while the next are written. More of them were slower, with a longer tail."""
_BUFFERS: Final = 3 * _BATCH
_CHECKERS: Final = 3
"""Threads that read back: a medium serves several requests at once faster than one by one, above all a busy one."""

Advance = Callable[[int], object]
"""Called with the number of bytes that were written and compared since the last call."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A buffer's content and its place; `old` says that the medium has it already."""

    place: int
    length: int
    buffer: mmap.mmap
    old: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The next bytes of the image, for its digest: the first `length` of a buffer, or a hole of that length."""

    length: int
    buffer: mmap.mmap | None = None
    shared: bool = False
    """Whether the buffer is also written and compared."""


@dataclass(slots=True)
class _Pipeline:
    """State that the threads share: queues, and the first failure, which ends all of them."""

    free: queue.SimpleQueue[mmap.mmap | None] = field(default_factory=queue.SimpleQueue)
    digest: queue.SimpleQueue[_Stretch | None] = field(default_factory=queue.SimpleQueue)
    write: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)
    check: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)
    failure: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    half: set[int] = field(default_factory=set)
    """Buffers that one of their two users has finished with."""

    def done(self, buffer: mmap.mmap) -> None:
        """Note that one of its two users has finished with a buffer; after the second it is free."""
        with self.lock:
            if id(buffer) not in self.half:
                self.half.add(id(buffer))
                return
            self.half.remove(id(buffer))
        self.free.put(buffer)

    def fail(self, error: BaseException) -> None:
        """End all threads; the first error counts."""
        self.failure = self.failure or error
        self.stop()

    def stop(self) -> None:
        """Wake all waiting threads."""
        self.free.put(None)
        self.digest.put(None)
        self.write.put(None)
        self.check.put(None)


@dataclass(frozen=True, slots=True)
class Flashed:
    """The result, in bytes."""

    written: int
    kept: int


def flash(
    image: Path, block_map: BlockMap, medium: Medium, *, compare: bool = False, advance: Advance = lambda _: None
) -> Flashed:
    """Write an image. With `compare`, equal data on the medium is kept. Raises ImageProblemError or DeviceError.

    If it fails before the first byte, nothing is changed; after an error or an interruption the medium holds a part.
    """
    if medium.size < block_map.size:
        raise DeviceError(
            f"{medium.where}: has {medium.size} bytes, the image needs {block_map.size}", hint="take a larger one, at least 4 GB"
        )
    line = _Pipeline()
    for _ in range(_BUFFERS):
        line.free.put(new_buffer())
    counts = [0, 0]
    work: dict[str, Callable[[], None]] = {
        "digest": lambda: _digest(line, MapCheck(block_map, str(image))),
        "write": lambda: _write(line, medium, counts, compare=compare),
        **{f"read-back {number}": lambda: _check(line, medium, advance) for number in range(_CHECKERS)},
    }
    threads = [threading.Thread(target=_guarded, args=(line, one), name=name) for name, one in work.items()]
    for thread in threads:
        thread.start()
    try:
        with unpacked(image) as stream:
            _read(stream, block_map, image, line)
        line.digest.put(None)
        line.write.put(None)
        for thread in threads:
            thread.join()
    except BaseException as error:
        line.fail(error)
        raise
    finally:
        for thread in threads:
            thread.join()
        if line.failure is not None:
            raise line.failure
    return Flashed(*counts)


def _guarded(line: _Pipeline, work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # raised again by `flash`
        line.fail(error)


def _read(stream: IO[bytes], block_map: BlockMap, image: Path, line: _Pipeline) -> None:
    """Unpack the image: everything goes to the digest, and data goes to the writer. Raises ImageProblemError."""
    place = 0
    for start, end in (*block_map.spans(GAP), (block_map.size, block_map.size)):
        while place < end:
            if place < start and (hole := _hole(stream, place, start)):
                line.digest.put(_Stretch(hole))
                place += hole
                continue
            buffer = line.free.get()
            if buffer is None or line.failure is not None:
                return
            length = min(CHUNK, (start if place < start else end) - place)
            _fill(stream, memoryview(buffer)[:length], image)
            line.digest.put(_Stretch(length, buffer, shared=place >= start))
            if place >= start:
                full = -(-length // ALIGN) * ALIGN
                buffer[length:full] = bytes(full - length)
                line.write.put(Chunk(place, full, buffer))
            place += length
    if stream.read(1):
        raise ImageProblemError(f"{image}: is larger than the {block_map.size} bytes that its block map says", hint=AGAIN)


def _hole(stream: IO[bytes], place: int, until: int) -> int:
    """Skip a hole of an image that is not packed; return its bytes, 0 if there is none or if it is unknown."""
    handle = stream.fileno()
    try:
        size = os.fstat(handle).st_size
        data = os.lseek(handle, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe
            return 0
        data = size  # no data up to the end of the file
    found = max(0, min(until, data, size) - place)
    os.lseek(handle, place + found, os.SEEK_SET)
    return found


def _fill(stream: IO[bytes], into: memoryview, image: Path) -> None:
    done = 0
    raw = cast("io.RawIOBase", stream)
    while done < len(into):
        try:
            got = raw.readinto(into[done:])
        except OSError as error:
            raise ImageProblemError(f"{image}: cannot be unpacked: {error}", hint=AGAIN) from error
        if not got:
            raise ImageProblemError(f"{image}: ends too early", hint=AGAIN)
        done += got


def _digest(line: _Pipeline, check: MapCheck) -> None:
    """Compare the image with its map. This is the slowest of the threads, so it does nothing else."""
    while (stretch := line.digest.get()) is not None and line.failure is None:
        if stretch.buffer is None:
            check.skip(stretch.length)
            continue
        check.feed(memoryview(stretch.buffer)[: stretch.length])
        if stretch.shared:
            line.done(stretch.buffer)
        else:
            line.free.put(stretch.buffer)
    if line.failure is None:
        check.finish()


def _write(line: _Pipeline, medium: Medium, counts: list[int], *, compare: bool) -> None:
    there = new_buffer() if compare else None
    batch: list[Chunk] = []
    while (piece := line.write.get()) is not None and line.failure is None:
        data = memoryview(piece.buffer)[: piece.length]
        if there is not None:
            medium.read(piece.place, memoryview(there)[: piece.length])
        old = there is not None and same(there, piece.buffer, piece.length)
        if not old:
            medium.write(piece.place, data)
        counts[old] += piece.length
        batch.append(Chunk(piece.place, piece.length, piece.buffer, old=old))
        if len(batch) == _BATCH:
            _hand_on(line, medium, batch)
            batch = []
    if line.failure is None:
        _hand_on(line, medium, batch)
        line.check.put(None)


def _hand_on(line: _Pipeline, medium: Medium, batch: list[Chunk]) -> None:
    if batch and not all(piece.old for piece in batch):
        medium.flush(batch[0].place, batch[-1].place + batch[-1].length - batch[0].place)
    for piece in batch:
        line.check.put(piece)


def _check(line: _Pipeline, medium: Medium, advance: Advance) -> None:
    buffer = new_buffer()
    view = memoryview(buffer)
    while (piece := line.check.get()) is not None and line.failure is None:
        if not piece.old:
            medium.read(piece.place, view[: piece.length])
            if not same(buffer, piece.buffer, piece.length):
                raise differs(medium, piece.place, piece.length)
        line.done(piece.buffer)
        with line.lock:
            advance(piece.length)
    line.check.put(None)  # pass the end on to the next thread


def differs(medium: Medium, place: int, length: int) -> DeviceError:
    """Return the error for a medium that does not hold what was written."""
    return DeviceError(
        f"{medium.where}: bytes {place}-{place + length - 1} read back differ from what was written",
        hint="the medium is worn out or smaller than it claims: use another one",
    )
