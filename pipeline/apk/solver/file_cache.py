# SPDX-License-Identifier: Apache-2.0
"""The cache of parsed indexes: files named by the digest of everything that they were made of.

Only verified indexes are stored, and the trusted keys are part of the name, so that finding a file also means that
the signature held. A file ends with the SHA-256 of its content; a file with another checksum counts as absent.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TRAILER = 32


def default_folder() -> str:
    """Return `$XDG_CACHE_HOME/tower/solv`, or `~/.cache/tower/solv`; /dev/null for a user without a home folder."""
    home = os.path.expanduser("~")  # noqa: PTH111 (pathlib is slow to import)
    base = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home.startswith("/") else os.devnull)
    return f"{base}/tower/solv"


def key_of(parts: Iterable[bytes]) -> str:
    """Return the digest of `parts`; each enters with its length, so that different lists have different digests."""
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _waiting_for_nobody(path: str, flags: int) -> int:
    """Open without blocking, so that a pipe in the place of the file cannot hang the process."""
    return os.open(path, flags | os.O_NONBLOCK)


class FileCache:
    """Files by key in one folder; if the folder cannot be written, nothing is stored."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder or default_folder()

    def read(self, name: str) -> memoryview | None:
        """Return the content that was stored as `name`; None if it is missing or damaged."""
        try:
            with open(f"{self.folder}/{name}", "rb", buffering=0, opener=_waiting_for_nobody) as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    return None
                data = memoryview(stream.read())
        except OSError:
            return None
        return data[:-_TRAILER] if sha256(data[:-_TRAILER]).digest() == data[-_TRAILER:] else None

    def store(self, name: str, data: bytes) -> None:
        """Store `data` as `name`; a reader never sees a part of it."""
        temporary = f"{self.folder}/.{name}.{os.getpid()}"
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)  # noqa: PTH103
            with open(temporary, "wb") as stream:  # noqa: PTH123
                stream.write(data)
                stream.write(sha256(data).digest())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, f"{self.folder}/{name}")  # noqa: PTH105
        except OSError:
            # A file that is not stored is made again the next time.
            try:
                os.unlink(temporary)  # noqa: PTH108
            except OSError:
                pass

    def keep_newest(self, prefix: str, count: int) -> None:
        """Remove all files whose names begin with `prefix`, except the `count` newest."""
        try:
            paths = [f"{self.folder}/{name}" for name in os.listdir(self.folder) if name.startswith(prefix)]  # noqa: PTH208
            for path in sorted(paths, key=lambda path: os.stat(path).st_mtime_ns)[:-count]:  # noqa: PTH116
                os.unlink(path)  # noqa: PTH108
        except OSError:
            pass  # another process is removing files as well
