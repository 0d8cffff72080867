# SPDX-License-Identifier: Apache-2.0
"""The vault: everything that locks name, by content, in the user's cache.

Upstreams delete what is superseded; what a lock names must outlive that. A file gets its name, its SHA-256, only when
its content is right; what is on its way lies in `untrusted_`. Tars of the vault carry it to a machine without a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.canonical import Digest, digest_bytes, digest_file
from pipeline.channel import LockedFile, Progress
from pipeline.errors import StoreError, VerifyError
from pipeline.store import disk_full, is_full

VERIFIED_NS = 1_000_000_000
"""The time that files get once they are verified; any later write takes it away."""

_MEMBER = re.compile(r"sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_CHUNK = 1 << 20
_DAY = 86400
_HINT = "run: ./ci/doit fetch"


@dataclass(frozen=True, slots=True)
class Swept:
    """What `Vault.gc` did."""

    removed: int
    freed: int
    left: int


class Vault:
    """A folder of files by content. Safe for several processes: names appear by renaming alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: LockedFile) -> Path:
        """Where a file is kept, whether it is there yet or not."""
        return self.place(file.sha256)

    def place(self, digest: Digest) -> Path:
        """The same, by content."""
        return self.folder / "sha256" / digest[:2] / digest

    def untrusted(self, file: LockedFile) -> Path:
        """Where what has come so far of a download lies; nothing but `accept` may take it from there."""
        return self.folder / "untrusted_" / file.sha256

    def missing(self, wanted: Iterable[LockedFile]) -> list[LockedFile]:
        """Those that are not there whole; damaged ones are taken away."""
        return [file for file in sorted({file.sha256: file for file in wanted}.values()) if not self.is_whole(file)]

    def is_whole(self, file: LockedFile) -> bool:
        """Is the file there, and its content right? A damaged one is taken away."""
        path = self.path(file)
        try:
            info = path.stat()
        except FileNotFoundError:
            return False
        if info.st_size == file.size and (info.st_mtime_ns == VERIFIED_NS or digest_file(path) == file.sha256):
            _mark(path)
            return True
        path.unlink(missing_ok=True)
        return False

    def recheck(self, file: LockedFile) -> bool:
        """Hash a file once more, whatever was noted of it."""
        if self.path(file).exists():
            os.utime(self.path(file))
        return self.is_whole(file)

    def accept(self, file: LockedFile) -> None:
        """Give the untrusted file its name. Raises VerifyError, and removes it, if its content is another."""
        part = self.untrusted(file)
        found = digest_file(part)
        if found != file.sha256 or part.stat().st_size != file.size:
            part.unlink()
            raise VerifyError(f"{file.name} {file.version}: sha256 is {found}, the lock says {file.sha256}")
        _name(part, self.path(file))

    def put(self, data: bytes) -> Digest:
        """Keep bytes that the caller has verified; their digest."""
        digest = digest_bytes(data)
        if not self.place(digest).exists():
            with self._scratch() as part:
                part.write_bytes(data)
                _name(part, self.place(digest))
        return digest

    def put_file(self, path: Path) -> Digest:
        """Move a file that the caller has verified into the vault; its digest."""
        digest = digest_file(path)
        _name(path, self.place(digest))
        return digest

    def read(self, file: LockedFile) -> bytes:
        """The content, hashed again. Raises VerifyError if the file is gone or another."""
        try:
            data = self.path(file).read_bytes()
        except FileNotFoundError as error:
            raise VerifyError(f"{file.name} {file.version}: is not in the vault", hint=_HINT) from error
        if digest_bytes(data) != file.sha256:
            self.recheck(file)
            raise self._swapped(file)
        return data

    def copy(self, file: LockedFile, target: Path) -> None:
        """Copy a file out, hashed on the way. Raises VerifyError, and leaves no copy, if it is gone or another."""
        digest = hashlib.sha256()
        try:
            with self.path(file).open("rb") as source, target.open("wb") as out:
                while piece := source.read(_CHUNK):
                    digest.update(piece)
                    out.write(piece)
        except FileNotFoundError as error:
            raise VerifyError(f"{file.name} {file.version}: is not in the vault", hint=_HINT) from error
        if digest.hexdigest() != file.sha256:
            target.unlink()
            self.recheck(file)
            raise self._swapped(file)

    def _swapped(self, file: LockedFile) -> VerifyError:
        return VerifyError(f"{file.name} {file.version}: the vault's file is not what the lock says; it was removed", hint=_HINT)

    # --- to and from other machines -------------------------------------------------------------------------

    def export(self, wanted: Iterable[LockedFile], target: Path, progress: Progress) -> int:
        """Write the files into a tar, equal files giving equal bytes; their number. Raises VerifyError for a missing one."""
        files = sorted({file.sha256: file for file in wanted}.values(), key=lambda file: file.sha256)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with (
                progress.bar(f"export of {len(files)} files", sum(file.size for file in files)) as bar,
                tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for file in files:
                    self._export_one(file, tar)
                    bar.advance(file.size)
            part.replace(target)
        except OSError as error:
            raise StoreError(f"{target}: cannot be written: {error.strerror}", hint="another place: file=PATH") from error
        finally:
            part.unlink(missing_ok=True)
        return len(files)

    def _export_one(self, file: LockedFile, tar: tarfile.TarFile) -> None:
        with self._scratch() as copy:
            self.copy(file, copy)
            info = tarfile.TarInfo(f"sha256/{file.sha256[:2]}/{file.sha256}")
            info.size, info.mode = copy.stat().st_size, 0o644
            with copy.open("rb") as stream:
                tar.addfile(info, stream)

    def load(self, source: Path, progress: Progress) -> int:
        """Take in the files of a tar that `export` made; their number. Nothing in it is believed but content.

        Raises VerifyError at the first member that is not what its name says; those before it stay, as they are right.
        """
        count = 0
        try:
            with progress.bar("import", source.stat().st_size) as bar, tarfile.open(source, "r:*") as tar:
                for member in tar:
                    found = _MEMBER.fullmatch(member.name)
                    stream = tar.extractfile(member) if found and member.isreg() else None
                    if found is None or stream is None:
                        raise VerifyError(f"{source}: {member.name!r} is not a file of a vault")
                    self._take(Digest(found[2]), stream, f"{source}: {member.name}")
                    bar.advance(member.size)
                    count += 1
        except (tarfile.TarError, EOFError) as error:
            raise VerifyError(f"{source}: truncated, or not a tar: {error}", hint="make it again: vault:export") from error
        except OSError as error:
            if is_full(error):
                raise disk_full(self.folder, error) from error
            raise StoreError(f"{source}: cannot be taken in: {error.strerror}", hint="for example: file=vault.tar") from error
        return count

    def _take(self, digest: Digest, stream: IO[bytes], where: str) -> None:
        hashed = hashlib.sha256()
        with self._scratch() as part:
            with part.open("wb") as out:
                while piece := stream.read(_CHUNK):
                    hashed.update(piece)
                    out.write(piece)
            if hashed.hexdigest() != digest:
                raise VerifyError(
                    f"{where}: its sha256 is {hashed.hexdigest()}", hint="the file was damaged or changed on its way"
                )
            _name(part, self.place(digest))

    # --- room -----------------------------------------------------------------------------------------------

    def gc(self, keep: Iterable[Digest], days: float, now: float | None = None) -> Swept:
        """Remove what `keep` does not name and nobody asked for in `days`, and downloads that were given up as long ago."""
        kept = set(keep)
        before = (time.time() if now is None else now) - days * _DAY
        removed = freed = left = 0
        for path in self._files():
            info = path.stat()
            used = max(info.st_atime, info.st_ctime)
            if (path.name in kept and path.parent.parent.name == "sha256") or used > before:
                left += info.st_size
                continue
            path.unlink(missing_ok=True)
            removed, freed = removed + 1, freed + info.st_size
        return Swept(removed, freed, left)

    def _files(self) -> Iterator[Path]:
        for pattern in ("sha256/*/*", "untrusted_/*"):
            yield from (path for path in sorted(self.folder.glob(pattern)) if path.is_file())

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A new file in `untrusted_`, gone at the end unless it was given a name."""
        folder = self.folder / "untrusted_"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix="new-")
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _name(part: Path, place: Path) -> None:
    """Sync a verified file and give it its name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.chmod(0o644)
    try:
        part.replace(place)
    except OSError:  # another file system
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(part, beside)
        part.unlink()
        beside.replace(place)
    _mark(place)


def _mark(path: Path) -> None:
    """Note that the content was right, and that somebody asked for it now."""
    os.utime(path, ns=(time.time_ns(), VERIFIED_NS))
