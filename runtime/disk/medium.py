# SPDX-License-Identifier: Apache-2.0
"""The medium of a host's disk: a block device, or a file for a virtual machine.

It is written and read past the page cache (O_DIRECT), so that reading back asks the medium. If the file system of a
file does not support that, written bytes are synced and dropped from the cache before they are read.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import DeviceError
from tower.base.files import give, look
from tower.base.refused import in_our_words, refused
from tower.disk.device import SECTOR, wrong_sector

ALIGN: Final = 4096
"""Positions and lengths on a medium, and the size of a file for one, are multiples of this."""
CHUNK: Final = 4 << 20
_LARGE: Final = 2 << 20
_SECTOR_SIZE: Final = 0x1268
"""BLKSSZGET: bytes of a logical sector."""


def new_buffer(size: int = CHUNK) -> mmap.mmap:
    """Return memory for O_DIRECT: aligned to pages; huge pages if possible, which makes fewer, larger requests."""
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _LARGE:
        with suppress(OSError):  # this kernel has no huge pages
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def same(one: mmap.mmap, other: mmap.mmap, length: int) -> bool:
    """Tell whether two buffers begin with the same `length` bytes; other threads run meanwhile, and nothing is copied."""
    import ctypes

    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    places = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in (one, other)]
    return bool(compare(*places, min(length, len(one), len(other))) == 0)


@dataclass(frozen=True, slots=True)
class Medium:
    """An open device or file. Positions and lengths are multiples of `ALIGN`."""

    handle: int
    where: str
    size: int
    direct: bool

    def write(self, place: int, data: memoryview) -> None:
        """Write all of `data` at `place`."""
        done = 0
        while done < len(data):
            done += self._try(os.pwritev, data[done:], place + done)

    def read(self, place: int, into: memoryview) -> None:
        """Fill `into` from `place`. Raises DeviceError."""
        done = 0
        while done < len(into):
            got = self._try(os.preadv, into[done:], place + done)
            if got == 0:
                raise DeviceError(f"{self.where}: ends at byte {place + done}, expected {self.size} bytes")
            done += got

    def _try(self, call: Callable[[int, list[memoryview], int], int], data: memoryview, place: int) -> int:
        try:
            return call(self.handle, [data], place)
        except OSError as error:
            raise DeviceError(
                f"{self.where}: {error.strerror} at byte {place}",
                hint="the medium is worn out or was removed, or the disk is full",
            ) from error

    def flush(self, place: int, length: int) -> None:
        """Sync a range to the medium, so that reading it back is meaningful. Raises DeviceError."""
        try:
            os.fdatasync(self.handle)
            if not self.direct:
                os.posix_fadvise(self.handle, place, length, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise DeviceError(
                f"{self.where}: {error.strerror} while syncing", hint="the medium is worn out or was taken out"
            ) from error


Check = Callable[[int], object]
"""Checks an open descriptor before anything is changed; raises DeviceError if it may not be written."""


def opened(path: Path, *, size: int | None = None) -> AbstractContextManager[Medium]:
    """Open a block device, or a file that has (or gets) `size` bytes, exclusively. Raises DeviceError."""
    found = look(path, DeviceError)
    return opened_disk(path) if found is not None and stat.S_ISBLK(found.st_mode) else opened_file(path, size=size)


@contextmanager
def opened_disk(path: Path, check: Check = lambda _: None) -> Iterator[Medium]:
    """Open a block device exclusively, so that nobody can mount it meanwhile. Raises DeviceError."""
    handle = _open_device(path)
    try:
        if not stat.S_ISBLK(os.fstat(handle).st_mode):
            raise DeviceError(f"{path}: is no longer a block device", hint="see which devices there are: lsblk")
        _lock(handle, path)
        if (sector := _sector(handle)) != SECTOR:
            raise DeviceError(f"{path}: {wrong_sector(sector)}", hint="use another disk")
        check(handle)
        yield _medium(handle, path)
    finally:
        os.close(handle)


@contextmanager
def opened_file(path: Path, check: Check = lambda _: None, *, size: int | None = None, write: bool = True) -> Iterator[Medium]:
    """Open a file that has, or gets, `size` bytes, exclusively. Raises DeviceError.

    A new file is removed again if it may not be written. Without `write` the file must exist, and is only read.
    """
    handle, made = _open_file(path, write=write)
    try:
        try:
            _lock(handle, path)
            check(handle)
            if size is not None and os.fstat(handle).st_size < size:
                _stretch(handle, path, size)
        except BaseException:
            if made:
                with suppress(OSError):
                    Path(os.path.realpath(path)).unlink()
            raise
        yield _medium(handle, path)
    finally:
        os.close(handle)


def _medium(handle: int, path: Path) -> Medium:
    size = os.lseek(handle, 0, os.SEEK_END)
    return Medium(handle, str(path), size - size % ALIGN, _direct(handle))


def _lock(handle: int, path: Path) -> None:
    if _locked_by_others(handle):
        raise DeviceError(f"{path}: is in use by another program, such as a running virtual machine")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceError(f"{path}: is being written by another program", hint="wait for it to end") from None


def _locked_by_others(handle: int) -> bool:
    """Tell whether another process locks a part of a file in the other way: QEMU does, for the disks of running machines.

    The lock is queried, not taken: on a network file system, both kinds are one, and would block each other.
    """
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        found = fcntl.fcntl(handle, fcntl.F_GETLK, wanted)
    except OSError:  # this file system has no locks
        return False
    return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)


def _sector(handle: int) -> int:
    """Return the bytes of a logical sector of an open disk."""
    buffer = bytearray(4)
    fcntl.ioctl(handle, _SECTOR_SIZE, buffer)
    return int.from_bytes(buffer, sys.byteorder)


def _open_file(path: Path, *, write: bool) -> tuple[int, bool]:
    """Open a regular file; return the descriptor, and whether the file is new."""
    # Without blocking: opening a FIFO would wait for its other end.
    name = os.path.realpath(path)
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    with in_our_words(path, kind=DeviceError, hint="it must be a file that you own"):
        if write:
            with suppress(FileExistsError):
                handle = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)
                give(handle, Path(name))
                return handle, True
        handle = os.open(name, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DeviceError(f"{path}: is not a regular file", hint="a disk is given with --device")
    return handle, False


def _stretch(handle: int, path: Path, size: int) -> None:
    try:
        os.ftruncate(handle, size)
    except OverflowError as error:
        raise DeviceError(f"{path}: cannot have {size} bytes: {error}", hint="give it a smaller size") from error
    except OSError as error:
        raise refused(error, f"{path}: cannot have {size} bytes", kind=DeviceError, hint="give it a smaller size") from error


def _open_device(path: Path) -> int:
    """Open a device so that nothing on it can be mounted meanwhile; with doas or sudo if only root may."""
    try:
        return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except PermissionError:
        return _open_as_root(path)
    except OSError as error:
        raise _not_opened(path, error.errno) from error


def _not_opened(path: Path, number: int | None) -> DeviceError:
    if number == errno.EBUSY:
        return DeviceError(f"{path}: is in use (mounted, or part of another device)", hint="unmount it, or take another one")
    return DeviceError(f"{path}: {os.strerror(number or 0)}", hint="see which devices there are: lsblk")


def _open_as_root(path: Path) -> int:
    """Have root open the device, and do nothing else."""
    import shutil

    tool = next((name for name in ("doas", "sudo") if shutil.which(name)), None)
    if tool is None:
        raise DeviceError(f"{path}: you may not write to it", hint="run tower as root")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = (tool, "-n", sys.executable, "-I", "-c", _OPENER, str(path))
        done = proc.run(argv, stdin=theirs.fileno(), timeout=60, check=False)
        theirs.close()
        _, handles, _, _ = socket.recv_fds(ours, 16, 1)
    if done.status != 0 or not handles:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DeviceError(f"{path}: {tool} did not open it: {' '.join(said)}", hint="run tower as a user who may become root")
    return handles[0]


_OPENER: Final = (
    "import os, socket, sys\n"
    "handle = os.open(sys.argv[1], os.O_RDWR | os.O_EXCL)\n"
    "socket.send_fds(socket.socket(fileno=0), [b'.'], [handle])\n"
)


def _direct(handle: int) -> bool:
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True
