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
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower import proc
from tower.errors import DeviceError
from tower.files import give, look
from tower.refused import in_our_words, refused

ALIGN: Final = 4096
CHUNK: Final = 4 << 20
_LARGE: Final = 2 << 20


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


@contextmanager
def opened(path: Path, *, size: int | None = None) -> Iterator[Medium]:
    """Open a block device, or a file that has (or gets) `size` bytes, for us alone. Raises DeviceError."""
    found = look(path, DeviceError)
    device = found is not None and stat.S_ISBLK(found.st_mode)
    handle = _open_device(path) if device else _open_file(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeviceError(f"{path}: is being written by another program", hint="wait for it to end") from None
        direct = _direct(handle)
        if not device and size is not None and os.fstat(handle).st_size < size:
            _stretch(handle, path, size)
        end = os.lseek(handle, 0, os.SEEK_END)
        yield Medium(handle, str(path), end - end % ALIGN, direct)
    finally:
        os.close(handle)


def _open_file(path: Path) -> int:
    with in_our_words(path, kind=DeviceError, hint="it must be a file of yours"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give(handle, path)
        return handle


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
    if not stat.S_ISBLK(os.fstat(handles[0]).st_mode):
        os.close(handles[0])
        raise DeviceError(f"{path}: is no block device any more")
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
