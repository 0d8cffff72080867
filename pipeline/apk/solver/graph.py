# SPDX-License-Identifier: Apache-2.0
"""Make the tables (`pipeline.apk.solver.tables`) of some verified indexes.

apk keeps names in a hash table, and walks through it when it notes which packages depend on which. The resulting order
finally decides in which order apk chooses, so names are numbered by it here.
"""

from __future__ import annotations

from pipeline.apk.format.pkginfo import NOARCH, parse_dependency
from pipeline.apk.solver.tables import CHECKSUM, CONFLICT, HIDDEN, NOTHING, OPS, USABLE, pack
from pipeline.apk.solver.versions import Versions2, Versions3
from pipeline.apk.solver.walk import walk_rows
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.apk.format.index import IndexEntry
    from pipeline.apk.format.pkginfo import Dependency

_BUCKETS = 20000
_SEED = 5381
_WORD = 0xFFFFFFFF


def bucket(name: str) -> int:
    """Return a name's bucket in apk's table: by MurmurHash3 of 32 bits."""
    data = name.encode()
    whole = len(data) & ~3
    value = _SEED
    for at in range(0, len(data), 4):
        part = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & _WORD
        value ^= (part << 15 | part >> 17) * 0x1B873593 & _WORD
        if at < whole:
            value = ((value << 13 | value >> 19) * 5 + 0xE6546B64) & _WORD
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & _WORD
    value = (value ^ value >> 13) * 0xC2B2AE35 & _WORD
    return (value ^ value >> 16) % _BUCKETS


@dataclass(frozen=True, slots=True)
class IndexedPackage:
    """One package of the indexes, with its lists as apk reads them."""

    entry: IndexEntry
    index: int
    usable: bool
    depends: tuple[Dependency, ...]
    provides: tuple[Dependency, ...]
    install_if: tuple[Dependency, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it provides, its own first."""
        return tuple(dict.fromkeys((self.entry.name, *(item.name for item in self.provides))))


class _ConditionReader:
    """Reads lists of conditions as apk of a generation does; it caches them, since most conditions are in many lists."""

    def __init__(self, generation: int) -> None:
        self._newer = generation > 2
        self._is_valid = (Versions3 if self._newer else Versions2).is_valid
        self._known: dict[str, tuple[Dependency | None, bool]] = {}

    def _item(self, text: str) -> tuple[Dependency | None, bool]:
        try:
            item = parse_dependency(text)
        except FormatError:
            return None, True
        broken = item.op not in ("", "><") and not self._is_valid(item.version)
        return (item if self._newer or not broken else None), broken

    def read(self, texts: Iterable[str]) -> tuple[tuple[Dependency, ...], bool]:
        """Return what apk takes from a list of conditions, and whether one of them is broken."""
        taken: list[Dependency] = []
        broken = False
        for text in texts:
            known = self._known.get(text) or self._known.setdefault(text, self._item(text))
            broken |= known[1]
            if known[0] is None:
                break
            taken.append(known[0])
        return tuple(taken), broken


def read_members(indexes: Sequence[Iterable[IndexEntry]], arch: str, generation: int) -> list[IndexedPackage]:
    """Return the packages of all indexes; a package that is in several counts once."""
    members: dict[str, IndexedPackage] = {}
    read = _ConditionReader(generation).read
    for number, entries in enumerate(indexes):
        for entry in entries:
            fits = entry.arch in (arch, NOARCH, "")
            if entry.checksum in members or not (fits or generation > 2):
                continue
            depends, broken = read(entry.depends)
            provides, _ = read(entry.provides)
            install_if, partial = read(entry.install_if)
            usable = fits and entry.installable and not (broken and generation > 2)
            members[entry.checksum] = IndexedPackage(
                entry, number, usable, depends, provides, () if partial and generation > 2 else install_if
            )
    return list(members.values())


class Graph:
    """Names and packages by number, and the edges between them."""

    def __init__(self, members: Sequence[IndexedPackage]) -> None:
        self.members = members
        created: dict[str, int] = {}
        for member in members:
            for name in (member.entry.name, *(item.name for item in (*member.depends, *member.provides, *member.install_if))):
                created.setdefault(name, len(created))
        # A new name goes to the front of its bucket.
        self.texts = sorted(created, key=lambda name: (bucket(name), -created[name]))
        self.numbers = {name: number for number, name in enumerate(self.texts)}
        self.offers: list[list[tuple[int, str]]] = [[] for _ in self.texts]
        self.asking: list[dict[int, None]] = [{} for _ in self.texts]
        self.own = [self.numbers[member.entry.name] for member in members]
        self.depends = [self._names(member.depends) for member in members]
        self.provides = [self._names(member.provides) for member in members]
        self.install_if = [self._names(member.install_if) for member in members]
        for package, member in enumerate(members):
            self.offers[self.numbers[member.entry.name]].append((package, member.entry.version))
            for item in member.provides:
                self.offers[self.numbers[item.name]].append((package, item.version))
            for number in self.depends[package]:
                self.asking[number][package] = None
        self.waiting = self._waiting()
        watched = {name for names in self.install_if for name in names}
        self.hidden = [
            len(offers) == 1 and self._is_hidden(name, offers[0][0], watched) for name, offers in enumerate(self.offers)
        ]

    def _names(self, items: Iterable[Dependency]) -> list[int]:
        return [self.numbers[item.name] for item in items]

    def _waiting(self) -> list[dict[int, int]]:
        """Return for each name the packages that come in by install_if of it, with another name that they need as well."""
        waiting: list[dict[int, int]] = [{} for _ in self.texts]
        for name, offers in enumerate(self.offers):
            for package, _version in offers:
                items = self.members[package].install_if
                single = len(offers) == 1 and not any(item.conflict for item in items)
                for watched in self.install_if[package]:
                    others = [other for other in self.install_if[package] if other != watched] if single else []
                    waiting[watched].setdefault(name, others[0] if others else NOTHING)
        return waiting

    def _is_hidden(self, name: int, package: int, watched: set[int]) -> bool:
        """Tell whether only its one package leads to a name, as for most commands that packages provide."""
        member = self.members[package]
        return not (self.asking[name] or name in watched or member.install_if or self.texts[name] == member.entry.name)


def _pairs(items: Iterable[tuple[int, int]]) -> list[int]:
    return [number for pair in items for number in pair]


def make_tables(indexes: Sequence[Iterable[IndexEntry]], arch: str, generation: int) -> bytes:
    """Return the tables for `arch` as apk of a `generation` (2 or 3) reads the indexes."""
    graph = Graph(read_members(indexes, arch, generation))
    texts: dict[str, int] = {}
    conditions: dict[tuple[int, int, int], int] = {}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts)) if value else NOTHING

    def condition(item: Dependency) -> int:
        key = (graph.numbers[item.name], OPS.index(item.op) + CONFLICT * item.conflict, text(item.version))
        return conditions.setdefault(key, len(conditions))

    rows, shared = walk_rows(graph) if generation > 2 else ([[] for _ in graph.texts], 0)
    members = graph.members
    hiding = {offers[0][0] for name, offers in enumerate(graph.offers) if graph.hidden[name]}
    nested: dict[str, Sequence[Sequence[int]]] = {
        "names...": [name.encode() for name in graph.texts],
        "offers...": [_pairs((package, text(version)) for package, version in offers) for offers in graph.offers],
        "asking...": [list(packages) for packages in graph.asking],
        "waiting...": [_pairs(names.items()) for names in graph.waiting],
        "depends...": [[condition(item) for item in member.depends] for member in members],
        "install_if...": [[condition(item) for item in member.install_if] for member in members],
        "provides...": [_pairs((graph.numbers[item.name], text(item.version)) for item in member.provides) for member in members],
        "walk...": rows,
    }
    numbers = {
        "by_text": sorted(range(len(graph.texts)), key=graph.texts.__getitem__),
        "package_name": [graph.numbers[member.entry.name] for member in members],
        "package_version": [text(member.entry.version) for member in members],
        "package_index": [member.index for member in members],
        "package_priority": [member.entry.provider_priority or 0 for member in members],
        "package_size": [member.entry.size for member in members],
        "package_flags": [member.usable * USABLE + (package in hiding) * HIDDEN for package, member in enumerate(members)],
        "condition_name": [name for name, _op, _version in conditions],
        "condition_op": [op for _name, op, _version in conditions],
        "condition_version": [version for _name, _op, version in conditions],
        "walk_shared": [shared],
    }
    nested["texts..."] = [value.encode() for value in texts]
    return pack(numbers, nested, "".join(member.entry.checksum.ljust(CHECKSUM) for member in members).encode())
