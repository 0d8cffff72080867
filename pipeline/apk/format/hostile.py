# SPDX-License-Identifier: Apache-2.0
"""The entries that an archive may have: a policy, and the checker that holds each entry against it.

The checker sees only the archive. An installer must also not follow links that are already on the disk.
"""

from __future__ import annotations

from pipeline.apk.format.tarstream import name_bytes, shown
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.format.tarstream import TarEntry


@dataclass(frozen=True, slots=True)
class Policy:
    """How far an archive is trusted: `devices` allows device nodes and pipes; the rest are bounds."""

    devices: bool = False
    max_entries: int = 1_000_000
    max_file: int = 64 << 30
    max_total: int = 256 << 30
    max_name: int = 4096
    max_names: int = 64 << 20
    """Bytes of memory for all paths together, including those of implied folders."""


DEFAULT_POLICY = Policy()
_IMPLIED = "implied"  # a folder that is implied by an entry below it
_HELD = 100  # bytes that a path takes in addition to its text


def check_path(name: str, where: str, what: str = "name", max_length: int = 4096) -> None:
    """Raise FormatError unless `name` is a plain path below the root: relative, no `.` or `..`, no control characters."""
    if not name:
        raise FormatError(f"{where}: empty {what}")
    size = len(name_bytes(name))
    if size > max_length:
        raise FormatError(f"{where}: {what} of {size} bytes, {max_length} are allowed: {name[:60]!r}...")
    _check_characters(name, where, what)
    if name.startswith("/"):
        raise FormatError(f"{where}: {what} {name!r} is an absolute path")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise FormatError(f"{where}: {what} {name!r} has an empty, '.' or '..' component")
        if len(name_bytes(part)) > 255:
            raise FormatError(f"{where}: {what} has a component of more than 255 bytes: {part[:60]!r}...")


def _check_characters(text: str, where: str, what: str) -> None:
    if not text.isprintable() and any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
        raise FormatError(f"{where}: {what} {text!r} holds a control character")


class EntryChecker:
    """Checks the entries of one archive, in order; raises FormatError at the first hostile one."""

    def __init__(self, where: str, policy: Policy = DEFAULT_POLICY) -> None:
        self._where = where
        self._policy = policy
        self._kinds: dict[str, str] = {}
        self._total = 0
        self._names = 0

    def check(self, entry: TarEntry) -> None:
        """Check `entry` against the policy and the entries before it. Raises FormatError."""
        name, kind, where, policy = entry.name, entry.kind, self._where, self._policy
        check_path(name, where, max_length=policy.max_name)
        earlier = self._kinds.get(name)
        # Folders may be repeated, as nfpm does for each file below them.
        if earlier and (kind != "dir" or earlier not in (_IMPLIED, "dir")):
            raise FormatError(f"{where}: {shown(name)} occurs twice")
        if len(self._kinds) >= policy.max_entries:
            raise FormatError(f"{where}: more than the {policy.max_entries} entries allowed")
        self._total += entry.size
        if entry.size > policy.max_file or self._total > policy.max_total:
            bounds = f"{policy.max_file} of a file and {policy.max_total} of all are allowed"
            raise FormatError(f"{where}: {shown(name)}: {entry.size} bytes, {self._total} with those before it; {bounds}")
        if kind in ("char", "block", "fifo") and not policy.devices:
            raise FormatError(f"{where}: {shown(name)}: a device node or pipe ({kind}) is not allowed")
        for text in (entry.uname, entry.gname):
            if not text.isprintable():
                _check_characters(text, where, f"owner of {shown(name)}")
        self._check_parents(name)
        if kind == "symlink":
            self._check_symlink(entry)
        elif kind == "hardlink":
            self._check_hardlink(entry)
        self._hold(name, kind)

    def _hold(self, name: str, kind: str) -> None:
        """Remember a path. The folders above a few deep ones take more memory than any real package."""
        if name not in self._kinds:
            self._names += name.__sizeof__() + _HELD
        if self._names > self._policy.max_names or len(self._kinds) > self._policy.max_entries:
            raise FormatError(f"{self._where}: more paths than are allowed ({self._policy.max_names >> 20} MiB of them)")
        self._kinds[name] = kind

    def _check_parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        while parent and (kind := self._kinds.get(parent, "")) not in ("dir", _IMPLIED):
            if kind:
                raise FormatError(f"{self._where}: {shown(name)}: its folder {shown(parent)} is a {kind} of the same archive")
            self._hold(parent, _IMPLIED)
            parent = parent.rpartition("/")[0]

    def _check_symlink(self, entry: TarEntry) -> None:
        if not entry.target or len(name_bytes(entry.target)) > self._policy.max_name:
            bound = f"1 to {self._policy.max_name} bytes are allowed"
            raise FormatError(f"{self._where}: {shown(entry.name)}: symbolic link with an empty or overlong target; {bound}")
        _check_characters(entry.target, self._where, f"target of {shown(entry.name)}")

    def _check_hardlink(self, entry: TarEntry) -> None:
        check_path(entry.target, self._where, f"target of {shown(entry.name)}", self._policy.max_name)
        if self._kinds.get(entry.target) != "file":
            raise FormatError(
                f"{self._where}: {shown(entry.name)}: hard link to {shown(entry.target)}, which is not a file before it"
            )
