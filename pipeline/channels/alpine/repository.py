# SPDX-License-Identifier: Apache-2.0
"""Make a repository from the vault: Alpine's own indexes and packages, byte for byte, at the paths where apk looks.

Nothing is signed or written again. Each package is checked once more against the signed index: a lock that somebody
edited, including its digest, cannot bring in anything that Alpine's keys do not vouch for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline.apk.format.signature import KeyRing
from pipeline.base.errors import VerifyError
from pipeline.channels.alpine.indexes import SignedIndex, read_signed
from pipeline.channels.alpine.packages import verify_package
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault


def locked_indexes(files: Sequence[LockedFile], arch: str, vault: Vault, ring: KeyRing) -> Mapping[str, SignedIndex]:
    """Return the locked indexes of an architecture from the vault, verified again, by repository. Raises VerifyError."""
    found = {}
    for file in files:
        index = read_signed(vault.read(file), ring, arch, file.name, file.location)
        if index.file != file:
            raise VerifyError(f"{index.title}: differs from the lock", hint="never edit a lock; lock the channel again")
        found[file.name] = index
    return found


def lay_repository(
    packages: Sequence[LockedFile],
    indexes: Mapping[str, SignedIndex],
    output: Path,
    *,
    vault: Vault,
    ring: KeyRing,
    log: IO[bytes],
) -> None:
    """Fill `output` with `<repository>/<arch>/{APKINDEX.tar.gz or Packages.adb,*.apk}`, where apk looks for each file.

    Packages that an index lists as those for all architectures lie in `<repository>/noarch`. Raises VerifyError.
    """
    for name, index in indexes.items():
        folder = output / name / index.arch
        folder.mkdir(parents=True)
        (folder / index.file_name).write_bytes(index.data)
    for file in packages:
        index, place = _place_of(file, indexes)
        target = output / index.file.name / place / f"{file.name}-{file.version}.apk"
        target.parent.mkdir(exist_ok=True)
        vault.copy(file, target)
        signer = verify_package(target, file, ring)
        if signer != file.signer:
            raise VerifyError(f"{target.name}: signed by {signer}, the lock says {file.signer or 'nobody'}")
        log.write(f"{index.file.name}/{place}/{target.name} {file.checksum} {signer}\n".encode())


def _place_of(file: LockedFile, indexes: Mapping[str, SignedIndex]) -> tuple[SignedIndex, str]:
    """Return the index that names a package, and the package's folder. Raises VerifyError."""
    for index in indexes.values():
        entry = index.entries.get(file.checksum)
        if entry is not None:
            if (entry.name, entry.version, entry.size) != (file.name, file.version, file.size):
                raise VerifyError(
                    f"{file.name}-{file.version}: the signed index says {entry.name}-{entry.version}, {entry.size} bytes"
                )
            return index, index.folder_of(entry)
    raise VerifyError(
        f"{file.name}-{file.version}: no signed index names {file.checksum or 'it'}",
        hint="never edit a lock; lock the channel again",
    )
