# SPDX-License-Identifier: Apache-2.0
"""A host's description of its packages: repositories, trusted keys, world, database. Read, bounded, made harmless.

The host sends one tar archive of known files. Its words become input of this machine's `apk`; so only known fields of the
database are copied, and only those repositories that packages can be fetched from. apk would choose wrongly if one of
those fields were lost: a field that cannot be copied as it is, is an error, or is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final
from urllib.parse import urlsplit

from tower.base.errors import AnswerError
from tower.base.tarfiles import DamagedTarError, read_tar
from tower.install.apkwords import is_tag, is_world

_MOST_KEY: Final = 16 << 10
"""The most bytes of a public key; one of RSA 16384 has 3 KiB."""
_MOST_FILES: Final = 200
_NAMES: Final = frozenset({"arch", "digest", "installed", "repositories", "serial", "world"})
_KEY: Final = re.compile(r"keys/([A-Za-z0-9_][A-Za-z0-9._@-]{0,120}\.pub)")
_ARCH: Final = re.compile(r"[a-z0-9_]{2,16}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SERIAL: Final = re.compile(r"[0-9]{1,9}")
_PATH: Final = re.compile(r"[A-Za-z0-9._~%+/-]*")
_SERVER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_CHOOSING: Final = frozenset("CPVASIDpirqskf")
_TEXTS: Final = frozenset("TULomtcg")
_FILES: Final = frozenset("FRMZa")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KINDS: Final = {"v2": 2, "v3": 3}
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder on a server that holds packages and their index, `<arch>/APKINDEX.tar.gz` or `<arch>/Packages.adb`."""

    scheme: str
    server: str
    port: int
    path: str
    """Begins with a slash and does not end with one, or is empty."""
    tag: str
    """`@name` if its packages are used only when asked for with this tag; else empty."""
    format: int = 2
    """apk's format of its index: 2, or 3 if its line says so, which then begins with `v3`."""

    @property
    def index_file(self) -> str:
        """The name of its index on the server."""
        return "Packages.adb" if self.format > 2 else "APKINDEX.tar.gz"

    @property
    def kind(self) -> str:
        """The beginning of its line in a list of repositories, before the tag."""
        return "v3 " if self.format > 2 else ""

    @property
    def address(self) -> str:
        """The repository's address in /etc/apk/repositories."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.server}{port}{self.path}"


@dataclass(frozen=True, slots=True)
class HostState:
    """Everything that decides which packages a host gets, except the indexes."""

    arch: str
    repositories: tuple[Repository, ...]
    left_out: tuple[str, ...]
    """Ignored parts, each in a few words: repositories that are not on a server, files that are not keys."""
    keys: Mapping[str, bytes]
    world: bytes
    installed: bytes
    digest: str
    """SHA-256 of the host's world and database."""
    serial: int
    """The number of the last bundle that the host has used."""


def parse_state(data: bytes, host: str) -> HostState:
    """Parse what `bundle state` wrote. Raises AnswerError if it is not valid."""
    files, keys, odd = _unpack(data, host)
    missing = sorted(_NAMES - files.keys())
    if missing:
        raise AnswerError(f"{host}: does not send its {', '.join(missing)}", hint=f"look: ssh {host} ls -l /etc/apk")
    repositories, left_out = parse_repositories(files["repositories"].decode(errors="replace"))
    return HostState(
        arch=_word(files["arch"], _ARCH, host, "architecture"),
        repositories=repositories,
        left_out=(*(f"repository {line[:100]!r}, which is not on a server" for line in left_out), *odd),
        keys=keys,
        world=_world(files["world"], host),
        installed=_database(files["installed"], host),
        digest=_word(files["digest"], _DIGEST, host, "digest"),
        serial=int(_word(files["serial"], _SERIAL, host, "serial number")),
    )


def _unpack(data: bytes, host: str) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
    """Return the files, the keys, and the files that are not keys."""
    files: dict[str, bytes] = {}
    keys: dict[str, bytes] = {}
    odd: list[str] = []
    try:
        members = read_tar(data, most=_MOST_FILES)
    except DamagedTarError as error:
        raise AnswerError(f"{host}: its description of its packages is not an archive: {error}") from error
    for member in members:
        key = _KEY.fullmatch(member.name)
        if member.content is not None and member.name in _NAMES:
            files[member.name] = member.content
        elif member.content is not None and key and len(member.content) <= _MOST_KEY:
            keys[key[1]] = member.content
        elif member.content is not None and member.name.startswith("keys/"):
            odd.append(f"file {member.name[:100]!r} of {len(member.content)} bytes, which is not a key")
    return files, keys, odd


def _word(data: bytes, form: re.Pattern[str], host: str, what: str) -> str:
    text = data.decode(errors="replace").strip()
    if form.fullmatch(text) is None:
        raise AnswerError(f"{host}: sent {text[:80]!r} as its {what}")
    return text


def _world(data: bytes, host: str) -> bytes:
    words = data.decode(errors="replace").split()
    for word in words:
        if not is_world(word):
            raise AnswerError(f"{host}: its world has {word[:80]!r}, which is not the name of a package")
    return "".join(f"{word}\n" for word in words).encode()


def _database(data: bytes, host: str) -> bytes:
    """Return the installed packages' records, without their files, in a harmless form. Raises AnswerError."""
    lines = (_field(line, host) for line in data.decode(errors="replace").split("\n"))
    return "\n".join(line for line in lines if line is not None).encode()


def _field(line: str, host: str) -> str | None:
    """Check a line of the database; None if choosing does not need it."""
    letter = line[:1]
    if not line or (letter in _CHOOSING and line[1:2] == ":" and _CONTROL.search(line) is None):
        return line
    if letter in _TEXTS and line[1:2] == ":":
        return _CONTROL.sub("?", line)
    # As in apk: unknown fields with a lower-case letter do not matter.
    if line[1:2] == ":" and (letter in _FILES or (letter in ascii_lowercase and letter not in _CHOOSING)):
        return None
    raise AnswerError(
        f"{host}: its database of packages has an invalid line: {line[:80]!r}",
        hint=f"if its system is newer than this one, upgrade this one; otherwise try: ssh {host} apk list --installed",
    )


def parse_repositories(text: str) -> tuple[tuple[Repository, ...], tuple[str, ...]]:
    """Return the repositories on servers, and the lines that name something else."""
    found: list[Repository] = []
    left_out: list[str] = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        kind, _, rest = line.partition(" ")
        number, place = (_KINDS[kind], rest.strip()) if kind in _KINDS else (2, line)
        tag, _, address = place.partition(" ") if place.startswith("@") else ("", "", place)
        repository = _repository(address.strip(), tag, number)
        if repository is None:
            left_out.append(line)
        elif repository not in found:
            found.append(repository)
    return tuple(found), tuple(left_out)


def _repository(address: str, tag: str, number: int) -> Repository | None:
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    named = _SERVER.fullmatch(parts.hostname or "") and _PATH.fullmatch(parts.path)
    if parts.scheme not in _PORTS or not plain or not named or (tag and not is_tag(tag[1:])):
        return None
    return Repository(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"), tag, number)
