# SPDX-License-Identifier: Apache-2.0
"""The fields of the schemas: which slot of an object holds what, and the package metadata that packages and indexes share."""

from __future__ import annotations

from pipeline.apk.adb.values import ERROR, TYPE_SHIFT
from pipeline.apk.format.opened import CHECKSUMS, checksum_of
from pipeline.apk.format.pkginfo import parse_dependency
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.apk.adb.values import Values

DEP_NAME, DEP_VERSION, DEP_MATCH = 1, 2, 3
INFO = {
    "name": 1, "version": 2, "hashes": 3, "description": 4, "arch": 5, "license": 6, "origin": 7, "maintainer": 8, "url": 9,
    "commit": 10, "builddate": 11, "installed_size": 12, "size": 13, "provider_priority": 14, "depends": 15, "provides": 16,
    "replaces": 17, "install_if": 18,
}  # fmt: skip
"""The slots of a package's metadata, by our names for the fields."""
PKG_INFO, PKG_PATHS, PKG_SCRIPTS, PKG_TRIGGERS, PKG_PRIORITY = 1, 2, 3, 4, 5
DIR_NAME, DIR_ACL, DIR_FILES = 1, 2, 3
FILE_NAME, FILE_ACL, FILE_SIZE, FILE_MTIME, FILE_HASH, FILE_TARGET = 1, 2, 3, 4, 5, 6
ACL_MODE, ACL_USER, ACL_GROUP, ACL_XATTRS = 1, 2, 3, 4
SCRIPTS = {
    ".trigger": 1, ".pre-install": 2, ".post-install": 3, ".pre-deinstall": 4, ".post-deinstall": 5, ".pre-upgrade": 6,
    ".post-upgrade": 7,
}  # fmt: skip
NDX_DESCRIPTION, NDX_PACKAGES, NDX_SPEC = 1, 2, 3

TEXTS = ("name", "version", "arch")
FOR_PEOPLE = ("description", "license", "origin", "maintainer", "url")
NUMBERS = ("builddate", "installed_size", "size")
LISTS = ("depends", "provides", "replaces", "install_if")
EQUAL, LESS, GREATER, FUZZY, CONFLICT = 1, 2, 4, 8, 16
OPERATORS = {
    "=": EQUAL, "<": LESS, "<=": LESS | EQUAL, ">": GREATER, ">=": GREATER | EQUAL, "><": LESS | GREATER, "~": FUZZY | EQUAL,
    "<~": LESS | FUZZY | EQUAL, ">~": GREATER | FUZZY | EQUAL,
}  # fmt: skip
_SIGNS = {number: sign for sign, number in OPERATORS.items()} | {0: "=", FUZZY: "~"}
_COMMIT = 20
_MOST_KEPT = 1 << 20


class InfoReader:
    """Reads the metadata of packages in one block; lists that several packages share are read once."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self._conditions: dict[int, str] = {}
        self._lists: dict[int, tuple[str, ...]] = {}
        self._count = 0

    def read(self, word: int, what: str) -> dict[str, object]:
        """Return the fields of a package by name, only those that are there; `checksum` stands for its hashes.

        A value that apk could not convert is left out, and `converted` says so. A version is then "", as it is to apk.
        Raises FormatError.
        """
        values, slots = self.values, self.values.object(word, what)
        found: dict[str, object] = {}
        for field, slot in INFO.items():
            value = slots[slot]
            if value >> TYPE_SHIFT == ERROR:
                found["converted"] = False
            elif value:
                found[field] = self._field(field, value, f"{what}: {field}")
        if "converted" in found:
            found.setdefault("version", "")
        for field in ("name", "version"):
            if field not in found:
                raise FormatError(f"{values.where}: {what}: lacks its {field}")
        if "hashes" in found:
            found["checksum"] = found.pop("hashes")
        return found

    def _field(self, field: str, word: int, what: str) -> object:
        values = self.values
        if field in LISTS:
            return self.conditions(word, what)
        if field in TEXTS:
            return values.text(word, what)
        if field in FOR_PEOPLE:
            return values.text(word, what, foreign=True)
        if field == "commit":
            commit = values.blob(word, what)
            if len(commit) != _COMMIT:
                raise FormatError(f"{values.where}: {what}: {len(commit)} bytes, a commit has {_COMMIT}")
            return commit.hex()
        if field == "hashes":
            digest = values.blob(word, what)
            if len(digest) not in CHECKSUMS:
                raise FormatError(f"{values.where}: {what}: {len(digest)} bytes, 20 (SHA-1) or 32 (SHA-256) are allowed")
            return checksum_of(digest)
        return values.number(word, what)

    def conditions(self, word: int, what: str) -> tuple[str, ...]:
        """Return a list of dependencies as texts. Raises FormatError."""
        known = self._lists.get(word)
        if known is None:
            words = self.values.array(word, what)
            known = tuple(self._condition(item, what) for item in words)
            self._count += len(words)
            if self._count > _MOST_KEPT:
                raise FormatError(f"{self.values.where}: {what}: more than {_MOST_KEPT} dependencies in all")
            self._lists[word] = known
        return known

    def _condition(self, word: int, what: str) -> str:
        known = self._conditions.get(word)
        if known is None:
            known = self._conditions[word] = self._read_condition(self.values.object(word, what), what)
        return known

    def _read_condition(self, slots: Sequence[int], what: str) -> str:
        values = self.values
        name, version = values.text(slots[DEP_NAME], what), values.text(slots[DEP_VERSION], what)
        match = values.number(slots[DEP_MATCH], what) or 0
        sign = ""
        if version:
            if match & ~CONFLICT not in _SIGNS:
                raise FormatError(f"{values.where}: {what}: {name} with the unknown operator {match}")
            sign = _SIGNS[match & ~CONFLICT]
        text = f"{'!' if match & CONFLICT else ''}{name}{sign}{version}"
        try:
            parsed = parse_dependency(text)
        except FormatError as error:
            raise FormatError(f"{values.where}: {what}: {error.message}") from None
        if (parsed.name, parsed.version) != (name, version):
            raise FormatError(f"{values.where}: {what}: {name!r} and {version!r} are not a name and a version")
        return text
