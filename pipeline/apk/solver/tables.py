# SPDX-License-Identifier: Apache-2.0
"""The packages of some indexes as numbers, in one block of memory of which a solver reads only the parts that it needs.

Names and packages are numbered; the lists of all names follow each other, with a list of the places where they begin.
The block is read from the cache as it is: nothing is parsed, and for one world only a small part of it becomes objects.
`pipeline.apk.solver.graph` makes it.
"""

from __future__ import annotations

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORD = array("i").itemsize
NOTHING = -1

# The lists, one entry for every name, package or text. "...": several numbers for each, found by a list of offsets.
LISTS = (
    "names...",  # the bytes of each name
    "by_text",  # the names in the order of their texts
    "offers...",  # of a name: package, version (a text; NOTHING where it is provided without one)
    "asking...",  # of a name: the packages that depend on it, or exclude it
    "waiting...",  # of a name: names that come in by install_if of it, with another name that this takes, or NOTHING
    "package_name", "package_version", "package_index", "package_priority", "package_size", "package_flags",
    "depends...", "install_if...",  # of a package: conditions
    "provides...",  # of a package: name, version
    "condition_name", "condition_op", "condition_version",
    "texts...",  # the bytes of versions
    "walk...",  # see walk.py
    "walk_shared",
)  # fmt: skip
USABLE, HIDDEN = 1, 2  # package_flags: can be chosen; has names that only it provides and nobody asks for
OPS = ("", "=", "<", "<=", ">", ">=", "~", "<~", ">~", "><")
CONFLICT = 16
CHECKSUM = 46
"""The bytes of the longest text of a checksum; shorter ones have spaces after them."""


def pack(numbers: Mapping[str, Sequence[int]], nested: Mapping[str, Sequence[Sequence[int]]], checksums: bytes) -> bytes:
    """Pack the tables into one block: a list of lengths, then the lists."""
    bodies = []
    for name in LISTS:
        if name.endswith("..."):
            begins = array("i", [0])
            values = array("B" if name in ("names...", "texts...") else "i")
            for items in nested[name]:
                values.extend(items)
                begins.append(len(values))
            bodies += [begins.tobytes(), values.tobytes() + bytes(-len(values) % WORD if values.itemsize == 1 else 0)]
        else:
            bodies.append(array("i", numbers[name]).tobytes())
    head = array("i", [len(body) for body in bodies])
    return b"".join((head.tobytes(), *bodies, checksums))


class Rows:
    """A list of numbers for each of many things."""

    __slots__ = ("begins", "values")

    def __init__(self, begins: memoryview, values: memoryview) -> None:
        self.begins, self.values = begins, values

    def __getitem__(self, number: int) -> list[int]:
        return self.values[self.begins[number] : self.begins[number + 1]].tolist()

    def text(self, number: int) -> str:
        """Return a row as text, if its numbers are bytes."""
        return str(self.values[self.begins[number] : self.begins[number + 1]], "utf-8")

    def __len__(self) -> int:
        return len(self.begins) - 1


class Tables:
    """All tables; an attribute for each of LISTS."""

    by_text: memoryview
    package_name: memoryview
    package_version: memoryview
    package_index: memoryview
    package_priority: memoryview
    package_size: memoryview
    package_flags: memoryview
    condition_name: memoryview
    condition_op: memoryview
    condition_version: memoryview
    walk_shared: memoryview
    names: Rows
    offers: Rows
    asking: Rows
    waiting: Rows
    depends: Rows
    install_if: Rows
    provides: Rows
    texts: Rows
    walk: Rows

    def __init__(self, whole: memoryview) -> None:
        count = sum(2 if name.endswith("...") else 1 for name in LISTS)
        at = count * WORD
        lengths = iter(whole[:at].cast("i"))
        for name in LISTS:
            parts = []
            for part in range(2 if name.endswith("...") else 1):
                length = next(lengths)
                body = whole[at : at + length]
                parts.append(body if part and name in ("names...", "texts...") else body.cast("i"))
                at += length
            setattr(self, name.removesuffix("..."), Rows(*parts) if len(parts) == 2 else parts[0])
        self._checksums = whole[at:]

    def checksum(self, package: int) -> str:
        """Return `Q1...` or `Q2...`, the checksum that the index states for a package."""
        return str(self._checksums[package * CHECKSUM : (package + 1) * CHECKSUM], "ascii").rstrip()

    def find(self, text: str) -> int:
        """Return the number of a name, or NOTHING."""
        low, high = 0, len(self.by_text)
        while low < high:
            middle = (low + high) // 2
            found = self.names.text(self.by_text[middle])
            if found == text:
                return self.by_text[middle]
            if found < text:
                low = middle + 1
            else:
                high = middle
        return NOTHING
