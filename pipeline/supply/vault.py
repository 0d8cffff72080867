# SPDX-License-Identifier: Apache-2.0
"""The vault: all files that locks name, by content, in the user's cache.

Mirrors delete superseded files; the files of a lock must survive that. A file gets its name, its SHA-256, only when its
content is right; until then it is called `untrusted_`. Tars of the vault carry it to a machine without a network.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tower.base.regular import open_regular

from pipeline.base.canonical import Digest, digest_bytes, digest_file
from pipeline.base.errors import FormatError, StoreError, VerifyError
from pipeline.base.files import disk_full, is_full
from pipeline.base.progress import Progress
from pipeline.formats.packed import DecompressedStream, form_of
from pipeline.formats.tarstream import Content, TarEntry, read_tar
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault_place import VERIFIED_NS, clear, give_name, mark, ours, scratch

__all__ = ["VERIFIED_NS", "Swept", "Vault"]

_MEMBER = re.compile(r"sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_LIST = "list"
"""The first member: digest and size of every file that follows."""
_ROW = re.compile(r"([0-9a-f]{64}) ([0-9]{1,14})")
_MOST_LIST = 64 << 20
_AGAIN = "make it again: vault:export"
_CHUNK = 1 << 20
_DAY = 86400
_HINT = "run: ./ci/doit fetch"


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of `Vault.gc`."""

    removed: int
    freed: int
    left: int


class Vault:
    """A folder of files by content. Safe for several processes: names appear only by renaming."""

    def __init__(self, folder: Path, elsewhere: Callable[[Digest], Path | None] | None = None) -> None:
        self.folder = folder
        self._elsewhere = elsewhere
        """Finds files that this machine keeps elsewhere: in a mirror of its own, in another vault."""

    def path(self, file: LockedFile) -> Path:
        """Return the place of a file, whether it is there or not."""
        return self.place(file.sha256)

    def place(self, digest: Digest) -> Path:
        """Return the place of a file by its content."""
        return (self._elsewhere(digest) if self._elsewhere else None) or self.folder / "sha256" / digest[:2] / digest

    def untrusted(self, file: LockedFile) -> Path:
        """Return the place of a partial download; only `accept` may move it from there."""
        return self.folder / "untrusted_" / file.sha256

    def missing(self, wanted: Iterable[LockedFile]) -> list[LockedFile]:
        """Return the files that are not there whole; damaged ones are removed. Raises StoreError."""
        return [file for file in sorted({file.sha256: file for file in wanted}.values()) if not self.is_whole(file)]

    def is_whole(self, file: LockedFile) -> bool:
        """Tell whether the file is there and its content right; a damaged one is removed. Raises StoreError."""
        path = self.path(file)
        with ours(path):
            clear(self.untrusted(file))
            info = clear(path)
            if info is None:
                return False
            if info.st_size == file.size and (info.st_mtime_ns == VERIFIED_NS or digest_file(path) == file.sha256):
                mark(path)
                return True
            path.unlink(missing_ok=True)
            return False

    def recheck(self, file: LockedFile) -> bool:
        """Hash a file again, whatever was noted about it. Raises StoreError."""
        with ours(self.path(file)):
            if self.path(file).exists():
                os.utime(self.path(file))
        return self.is_whole(file)

    def accept(self, file: LockedFile) -> None:
        """Give the untrusted file its name. Raises VerifyError, and removes it, if its content differs; StoreError."""
        part = self.untrusted(file)
        with ours(part):
            found = digest_file(part)
            if found != file.sha256 or part.stat().st_size != file.size:
                part.unlink()
                raise VerifyError(f"{file.name} {file.version}: sha256 is {found}, the lock says {file.sha256}")
            give_name(part, self.path(file))

    def put(self, data: bytes) -> Digest:
        """Store bytes that the caller has verified; return their digest. Raises StoreError."""
        digest = digest_bytes(data)
        with ours(self.place(digest)):
            if clear(self.place(digest)) is None:
                with scratch(self.folder / "untrusted_") as part:
                    part.write_bytes(data)
                    give_name(part, self.place(digest))
        return digest

    def put_file(self, path: Path) -> Digest:
        """Move a file that the caller has verified into the vault; return its digest. Raises StoreError."""
        digest = digest_file(path)
        with ours(self.place(digest)):
            give_name(path, self.place(digest))
        return digest

    def read(self, file: LockedFile) -> bytes:
        """Return the content, hashed again. Raises VerifyError if the file is missing or differs, StoreError if unreadable."""
        with self._opened(file) as source, ours(self.path(file)):
            data = source.read()
        if digest_bytes(data) != file.sha256:
            self.recheck(file)
            raise self._swapped(file)
        return data

    def copy(self, file: LockedFile, target: Path) -> None:
        """Copy a file out, hashed on the way.

        Raises VerifyError, and leaves no copy, if it is missing or differs; StoreError; OSError if `target` cannot be written.
        """
        digest = hashlib.sha256()
        with self._opened(file) as source, target.open("wb") as out:
            while piece := source.read(_CHUNK):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != file.sha256:
            target.unlink()
            self.recheck(file)
            raise self._swapped(file)

    def _opened(self, file: LockedFile) -> BinaryIO:
        path = self.path(file)
        with ours(path):
            if clear(path) is None:
                raise VerifyError(f"{file.name} {file.version}: is not in the vault", hint=_HINT)
            return open_regular(path)

    def _swapped(self, file: LockedFile) -> VerifyError:
        return VerifyError(f"{file.name} {file.version}: the vault's file differs from the lock; it was removed", hint=_HINT)

    # --- to and from other machines -------------------------------------------------------------------------

    def export(self, wanted: Iterable[LockedFile], target: Path, progress: Progress) -> int:
        """Write the files into a tar after a list of them; equal files give equal bytes. Return their number.

        Raises VerifyError for a missing one.
        """
        files = sorted({file.sha256: file for file in wanted}.values(), key=lambda file: file.sha256)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with (
                progress.bar(f"export of {len(files)} files", sum(file.size for file in files)) as bar,
                tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar,
            ):
                listed = "".join(f"{file.sha256} {file.size}\n" for file in files).encode()
                tar.addfile(_member(_LIST, len(listed)), io.BytesIO(listed))
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
        with scratch(self.folder / "untrusted_") as copy:
            self.copy(file, copy)
            with copy.open("rb") as stream:
                tar.addfile(_member(f"sha256/{file.sha256[:2]}/{file.sha256}", copy.stat().st_size), stream)

    def load(self, source: Path, progress: Progress) -> int:
        """Import the files of a tar that `export` made; return their number. Only content is trusted.

        Raises VerifyError at the first member that does not match its name, and if files of the list are missing; the members
        before it stay, as they are right.
        """
        came: set[Digest] = set()
        try:
            with open_regular(source) as stream, progress.bar("import", source.stat().st_size) as bar:
                entries = read_tar(DecompressedStream(stream, form_of(stream), str(source)), str(source))
                wanted = _read_list(entries, source)
                for entry, content in entries:
                    found = _MEMBER.fullmatch(entry.name)
                    if found is None or entry.kind != "file":
                        raise VerifyError(f"{source}: {entry.name!a} is not a file of a vault")
                    digest = Digest(found[2])
                    if wanted.get(digest) != entry.size or digest in came:
                        raise VerifyError(f"{source}: {entry.name}: occurs twice, or is not in its list", hint=_AGAIN)
                    self._take(digest, content, f"{source}: {entry.name}")
                    bar.advance(entry.size)
                    came.add(digest)
        except FormatError as error:
            raise VerifyError(error.message, hint=_AGAIN) from error
        except OSError as error:
            if is_full(error):
                raise disk_full(self.folder, error) from error
            raise StoreError(f"{source}: cannot be imported: {error.strerror}", hint="for example: file=vault.tar") from error
        if len(came) < len(wanted):
            raise VerifyError(f"{source}: has only {len(came)} of the {len(wanted)} files in its list", hint=_AGAIN)
        return len(came)

    def _take(self, digest: Digest, content: Content, where: str) -> None:
        hashed = hashlib.sha256()
        with scratch(self.folder / "untrusted_") as part:
            with part.open("wb") as out:
                while piece := content.read(_CHUNK):
                    hashed.update(piece)
                    out.write(piece)
            if hashed.hexdigest() != digest:
                raise VerifyError(
                    f"{where}: its sha256 is {hashed.hexdigest()}", hint="the file was damaged or changed on its way"
                )
            with ours(self.place(digest)):
                give_name(part, self.place(digest))

    # --- room -----------------------------------------------------------------------------------------------

    def gc(self, keep: Iterable[Digest], days: float, now: float | None = None) -> Swept:
        """Remove files that `keep` does not name and nobody used for `days`, and downloads that were abandoned as long ago."""
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


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _read_list(entries: Iterator[tuple[TarEntry, Content]], source: Path) -> dict[Digest, int]:
    """Return the list: the size of each file by its digest. Raises VerifyError."""
    entry, content = next(entries, (None, None))
    if entry is None or content is None or (entry.name, entry.kind) != (_LIST, "file"):
        raise VerifyError(f"{source}: does not begin with the list that vault:export writes", hint=_AGAIN)
    if entry.size > _MOST_LIST:
        raise VerifyError(f"{source}: its list has {entry.size} bytes, {_MOST_LIST} are allowed", hint=_AGAIN)
    text = content.read().decode(errors="replace")
    rows = [_ROW.fullmatch(line) for line in text.split("\n")[:-1]]
    if (text and not text.endswith("\n")) or None in rows:
        raise VerifyError(f"{source}: its list is damaged", hint=_AGAIN)
    return {Digest(row[1]): int(row[2]) for row in rows if row is not None}
