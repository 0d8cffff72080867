# SPDX-License-Identifier: Apache-2.0
"""What a host's disk is written to: a block device, or a file for a virtual machine.

Written and read past the page cache (O_DIRECT), so that what is read back comes from the medium. Where the file system
of a file cannot do that, written bytes are synced and dropped from the cache before they are read.
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
"""Positions and lengths on a medium, and so the size of a file for one, are multiples of it."""
CHUNK: Final = 4 << 20
_LARGE: Final = 2 << 20
_SECTOR_SIZE: Final = 0x1268
"""BLKSSZGET: bytes of a logical sector."""


def new_buffer(size: int = CHUNK) -> mmap.mmap:
    """Memory that O_DIRECT takes: aligned to pages; of large pages where it can be, which makes fewer, larger requests."""
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _LARGE:
        with suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def same(one: mmap.mmap, other: mmap.mmap, length: int) -> bool:
    """Whether two buffers begin with the same bytes; other threads run meanwhile, and nothing is copied."""
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
        """Fill `into` with what is at `place`."""
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
                hint="the medium is worn out, was taken out, or the disk is full",
            ) from error

    def flush(self, place: int, length: int) -> None:
        """Bring what was written to the medium, so that reading it means something."""
        try:
            os.fdatasync(self.handle)
            if not self.direct:
                os.posix_fadvise(self.handle, place, length, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise DeviceError(
                f"{self.where}: {error.strerror} while syncing", hint="the medium is worn out or was taken out"
            ) from error


Check = Callable[[int], object]
"""Looks at what a descriptor is open on, before anything is changed; raises DeviceError if that may not be written."""


def opened(path: Path, *, size: int | None = None) -> AbstractContextManager[Medium]:
    """Open a block device, or a file that has (or gets) `size` bytes, for us alone. Raises DeviceError."""
    found = look(path, DeviceError)
    return opened_disk(path) if found is not None and stat.S_ISBLK(found.st_mode) else opened_file(path, size=size)


@contextmanager
def opened_disk(path: Path, check: Check = lambda _: None) -> Iterator[Medium]:
    """Open a block device, which nobody can mount or open so meanwhile. Raises DeviceError."""
    handle = _open_device(path)
    try:
        if not stat.S_ISBLK(os.fstat(handle).st_mode):
            raise DeviceError(f"{path}: is no block device any more", hint="see which devices there are: lsblk")
        _lock(handle, path)
        if (sector := _sector(handle)) != SECTOR:
            raise DeviceError(f"{path}: {wrong_sector(sector)}", hint="take another disk")
        check(handle)
        yield _medium(handle, path)
    finally:
        os.close(handle)


@contextmanager
def opened_file(path: Path, check: Check = lambda _: None, *, size: int | None = None, write: bool = True) -> Iterator[Medium]:
    """Open a file that has, or gets, `size` bytes, for us alone. Raises DeviceError.

    One that is made here is gone again if it may not be written. Without `write` it must be there, and is read only.
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
        raise DeviceError(f"{path}: is in use by another program, as the disk of a virtual machine that runs is")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceError(f"{path}: is being written by another program", hint="wait for it to end") from None


def _locked_by_others(handle: int) -> bool:
    """Whether somebody holds a lock of the other kind on a part of a file: QEMU does, on the disks of what it runs.

    It is asked for and not taken: on a network's file system both kinds are one, and would stand in each other's way.
    """
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        found = fcntl.fcntl(handle, fcntl.F_GETLK, wanted)
    except OSError:  # a file system without locks
        return False
    return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)


def _sector(handle: int) -> int:
    """Bytes of a logical sector of an open disk."""
    buffer = bytearray(4)
    fcntl.ioctl(handle, _SECTOR_SIZE, buffer)
    return int.from_bytes(buffer, sys.byteorder)


def _open_file(path: Path, *, write: bool) -> tuple[int, bool]:
    """A descriptor of a regular file, and whether the file was made by this."""
    # Without blocking: a FIFO would wait for its other end.
    name = os.path.realpath(path)
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    with in_our_words(path, kind=DeviceError, hint="it must be a file of yours"):
        if write:
            with suppress(FileExistsError):
                handle = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)
                give(handle, Path(name))
                return handle, True
        handle = os.open(name, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DeviceError(f"{path}: is no regular file", hint="a disk is given with --device")
    return handle, False


def _stretch(handle: int, path: Path, size: int) -> None:
    try:
        os.ftruncate(handle, size)
    except OverflowError as error:
        raise DeviceError(f"{path}: cannot have {size} bytes: {error}", hint="give it a smaller size") from error
    except OSError as error:
        raise refused(error, f"{path}: cannot have {size} bytes", kind=DeviceError, hint="give it a smaller size") from error


def _open_device(path: Path) -> int:
    """Open a device so that nothing on it can be mounted meanwhile; by doas or sudo where that takes root."""
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
    """The device as root opened it: root does this and nothing else."""
    import shutil

    tool = next((name for name in ("doas", "sudo") if shutil.which(name)), None)
    if tool is None:
        raise DeviceError(f"{path}: may not be written by you", hint="run tower as root")
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
