# SPDX-License-Identifier: Apache-2.0
"""An index of packages as it was read, whatever the format of its file."""

from __future__ import annotations

from pipeline.apk.format.pkginfo import is_name, is_safe_version
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.format.signature import Signature


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One package of an index; `size` is its file's, `installed_size` its size on the disk.

    `checksum` is `Q1` and a SHA-1, or `Q2` and a SHA-256 (see `opened.Package.identities`).

    If it is not `installable`, it has a field of a newer apk; ours must not choose it.
    """

    checksum: str
    name: str
    version: str
    arch: str = ""
    size: int = 0
    installed_size: int = 0
    description: str = ""
    url: str = ""
    license: str = ""
    origin: str = ""
    maintainer: str = ""
    builddate: int = 0
    commit: str = ""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    install_if: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    replaces_priority: int | None = None
    provider_priority: int | None = None
    installable: bool = True

    @property
    def file_name(self) -> str:
        """The name of its file in the repository."""
        return f"{self.name}-{self.version}.apk"


@dataclass(frozen=True, slots=True)
class Index:
    """A repository's description, its packages and who signed it.

    `signer` is the key whose signature was valid, "" if none was asked for. `made` is the time that stands for the index's
    own (seconds since 1970, from what is signed): the latest one of its files and of the builds of its packages.
    """

    description: str
    entries: tuple[IndexEntry, ...]
    signatures: tuple[Signature, ...] = ()
    signer: str = ""
    made: int = 0


def check_names(entry: IndexEntry, where: str, fields: tuple[str, str, str]) -> None:
    """Check the texts that become part of file names and addresses; `fields` are the index's words for them.

    Raises FormatError.
    """
    name, version, arch = fields
    if not is_name(entry.name):
        raise FormatError(f"{where}: {name}: is not a package name: {entry.name!r}")
    if not is_safe_version(entry.version):
        raise FormatError(f"{where}: {version}: cannot be a version in a file's name: {entry.version!r}")
    if entry.arch and not is_name(entry.arch):
        raise FormatError(f"{where}: {arch}: is not an architecture: {entry.arch!r}")
