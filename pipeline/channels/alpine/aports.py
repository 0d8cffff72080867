# SPDX-License-Identifier: Apache-2.0
"""The scripts of aports (mkimage.sh and its profiles) at the commit that the signed index was made from.

An index states, signed, the commit of aports that its packages are built from. The archive of that commit is packed again
in one fixed form, so that its digest does not depend on how the server compresses.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from pipeline.base.canonical import digest_bytes, tree_entries
from pipeline.base.errors import FormatError, LockError, VerifyError
from pipeline.base.filelock import locked
from pipeline.base.scratch import temporary_folder
from pipeline.formats.packed import DecompressedStream
from pipeline.formats.tarstream import read_tar
from pipeline.supply.fetch import Mirrors, get_checked
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault

NAME = "aports-scripts"
FOLDER = "scripts"
_DESCRIBED = re.compile(r".*-[0-9]+-g([0-9a-f]{7,40})")
_TAG = re.compile(r"v[0-9]+\.[0-9]+(\.[0-9]+)?(_rc[0-9]+)?")
_LIMIT = 64 << 20
_LARGEST = 8 << 20


def ref_of(description: str) -> str:
    """Return the commit (or tag) of aports in an index's description. Raises LockError."""
    found = _DESCRIBED.fullmatch(description)
    if found:
        return found[1]
    if _TAG.fullmatch(description):
        return description
    raise LockError(f"the index calls itself {description!r}, which names no commit of aports", hint="another mirror")


def lock_scripts(ref: str, vault: Vault, source: Mirrors) -> LockedFile:
    """Fetch the scripts of `ref` and keep them in the vault."""
    location = f"{ref}/aports-{ref}.tar.gz?path={FOLDER}"
    commit, data = get_checked(source, location, limit=_LIMIT, check=lambda archive: repack(archive, ref))
    return LockedFile(NAME, commit, vault.put(data), len(data), location)


def fetch_scripts(file: LockedFile, vault: Vault, source: Mirrors) -> None:
    """Fetch them again if the vault lacks them. Raises VerifyError if they have changed."""
    if not vault.is_whole(file):
        ref = file.location.partition("/")[0]
        found = lock_scripts(ref, vault, source)
        if found != file:
            raise VerifyError(f"{NAME} {file.version}: sha256 is {found.sha256}, the lock says {file.sha256}")


def repack(archive: bytes, ref: str) -> tuple[str, bytes]:
    """Return the commit of an archive, and its scripts as a tar in a fixed form. Raises FormatError, VerifyError."""
    where = f"archive of aports at {ref}"
    plain = DecompressedStream(io.BytesIO(archive), "gz", where).read(_LIMIT + 1)  # to its end, or to the limit
    if len(plain) > _LIMIT:
        raise FormatError(f"{where}: longer than {_LIMIT} bytes")
    files, comments = dict[str, tuple[int, bytes]](), list[str]()
    for entry, content in read_tar(io.BytesIO(plain), where, comments=comments):
        top, _, path = entry.name.partition("/")
        if entry.kind == "dir" or not path.startswith(f"{FOLDER}/"):
            continue
        parts = path.split("/")
        odd = entry.kind != "file" or {"", ".", ".."} & set(parts) or not top
        if odd or entry.size > _LARGEST or path in files:
            raise FormatError(f"{where}: {entry.name!a} does not belong there")
        files[path] = (0o755 if entry.mode & 0o100 else 0o644, content.read())
    for path in files:
        if any(parent.as_posix() in files for parent in PurePosixPath(path).parents):
            raise FormatError(f"{where}: {path!a} lies below a file")
    commit = comments[0] if comments else ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or (re.fullmatch(r"[0-9a-f]+", ref) and not commit.startswith(ref)):
        raise VerifyError(f"{where}: is of commit {commit or 'unknown'}")
    if f"{FOLDER}/mkimage.sh" not in files:
        raise FormatError(f"{where}: no {FOLDER}/mkimage.sh in it")
    return commit, _packed_anew(files, where)


def _packed_anew(files: Mapping[str, tuple[int, bytes]], where: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for path, (mode, data) in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.mode, info.size = mode, len(data)
            try:
                target.addfile(info, io.BytesIO(data))
            except ValueError as error:
                raise FormatError(f"{where}: {path!a}: {error}") from error
    return out.getvalue()


def unpack(file: LockedFile, vault: Vault, folder: Path, report: Callable[[str], None]) -> Path:
    """Return a folder below `folder` that holds just the locked scripts; unpack them if it does not. Raises VerifyError.

    `report` is told about changed scripts; they do not enter a build.
    """
    files = {entry.name: (entry.mode, content.read()) for entry, content in read_tar(io.BytesIO(vault.read(file)), NAME)}
    place = folder / f"{NAME}-{file.sha256[:16]}"
    if _holds(place, files):
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{place.name}.guard"):
        if os.path.lexists(place):
            if _holds(place, files):  # another process was quicker
                return place
            report(f"{place}: was changed since it was unpacked; it is unpacked again")
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        with temporary_folder("aports", folder) as scratch:
            new = scratch / "new"
            for name, (mode, data) in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
                (new / name).chmod(mode)
            new.rename(place)
    return place


def _holds(place: Path, files: Mapping[str, tuple[int, bytes]]) -> bool:
    """Tell whether a folder holds just these files, by path, mode and content."""
    if not place.is_dir() or place.is_symlink():
        return False
    wanted = {name: (bool(mode & stat.S_IXUSR), digest_bytes(data)) for name, (mode, data) in files.items()}
    try:
        rows = tree_entries(place)
    except (OSError, ValueError):  # something that is no file
        return False
    if any(kind == "link" for _, kind, _, _ in rows):
        return False
    return {path: (executable, content) for path, kind, executable, content in rows if kind == "file"} == wanted


def find_scripts(media: tuple[LockedFile, ...]) -> LockedFile:
    """Return the scripts among the locked media. Raises LockError."""
    for file in media:
        if file.name == NAME:
            return file
    raise LockError("the lock has no scripts of aports", hint="lock the channel again")


def is_scripts(file: LockedFile) -> bool:
    """Tell whether a locked medium is not fetched as it is, but packed again."""
    return file.name == NAME
