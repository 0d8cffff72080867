# SPDX-License-Identifier: Apache-2.0
"""What connects the packages of several indexes: whom apk prefers for a name, and what a condition on a version means.

Found once for a set of indexes and cached. A *choice* is a name that several packages provide, or one that apk does
not choose by itself; a *range* is a condition that is not plain equality, with the versions that fulfil it.
"""

from __future__ import annotations

import itertools

from pipeline.apk import version as versions
from pipeline.apk.pkginfo import parse_dependency
from pipeline.apk.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.apk.index import IndexEntry

Choices = dict[str, tuple[int, ...]]
Ranges = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Links:
    """`choices`: the providers of a name, best first, by the pool's numbers, negative where apk does not choose it by itself.

    `asked`: the names among these that some package depends on.
    `ranges`: for the text of a condition the `name=version` of which one is wanted, and those that are excluded.
    """

    choices: Choices
    asked: frozenset[str]
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Offer:
    """One package as a provider of one name; `version` is that of the name, "" if it is provided without."""

    number: int
    package: str
    package_version: str
    version: str
    priority: int


def _newer(a: str, b: str) -> int:
    """How `a` compares with `b`; 0 where apk does not compare (a version is missing or not valid)."""
    if not a or not b or a == b or not versions.is_valid(a) or not versions.is_valid(b):
        return 0
    return versions.compare(a, b)


def _better(a: Offer, b: Offer) -> bool:
    """Whether apk takes `a` rather than `b`, which comes before it in the indexes."""
    order = _newer(a.version, b.version)
    if not order and a.package == b.package:
        order = _newer(a.package_version, b.package_version)
    return (order or a.priority - b.priority) > 0


def ranked(offers: Sequence[Offer]) -> tuple[int, ...]:
    """The providers of one name, best first; see `Links.choices`."""
    left = list(offers)
    order = []
    while left:
        best = left[0]
        for offer in left[1:]:
            if _better(offer, best):
                best = offer
        left.remove(best)
        order.append(best)
    by_itself = [offer.number for offer in order if offer.version or offer.priority]
    return (*by_itself, *(-offer.number for offer in order if not offer.version and not offer.priority))


def find_links(entries: Sequence[IndexEntry], first: int) -> Links:
    """The links among the packages of all indexes, which are numbered from `first` on."""
    offers: dict[str, dict[int, Offer]] = {}
    conditions: set[str] = set()
    asked: set[str] = set()
    for number, entry in enumerate(entries, first):
        priority = entry.provider_priority or 0
        offers.setdefault(entry.name, {})[number] = Offer(number, entry.name, entry.version, entry.version, priority)
        for text in entry.provides:
            provided = parse_dependency(text)
            offer = Offer(number, entry.name, entry.version, provided.version, priority)
            offers.setdefault(provided.name, {}).setdefault(number, offer)
        asked.update(wanted.name for wanted in map(parse_dependency, entry.depends) if not wanted.conflict)
        conditions.update(text for text in entry.depends if any(char in text for char in "<>~"))
    choices = {
        name: ranked(tuple(found.values()))
        for name, found in offers.items()
        if len(found) > 1 or not any(offer.version or offer.priority for offer in found.values())
    }
    checksums = {f"{entry.name}={entry.version}": entry.checksum for entry in entries}
    ranges: Ranges = {}
    for text in conditions:
        wanted = parse_dependency(text)
        plain = text.removeprefix("!")
        fitting = fulfilling(plain, [offer.version for offer in offers.get(wanted.name, {}).values()], checksums)
        if wanted.conflict:
            ranges[f"!{term_of(plain)}"] = ((), fitting)
        elif fitting:
            ranges[term_of(plain)] = (fitting, ())
    return Links(choices, frozenset(asked & choices.keys()), ranges)


def term_of(text: str) -> str:
    """A dependency's text with its operator in the one form that is used inside."""
    wanted = parse_dependency(text)
    return f"{wanted.name}{wanted.op}{wanted.version}"


def fulfilling(text: str, offered: Iterable[str], checksums: dict[str, str]) -> tuple[str, ...]:
    """The `name=version` among the `offered` versions that fulfil the dependency `text`."""
    wanted = parse_dependency(text)
    found = []
    for version in sorted(set(offered) - {""}):
        exact = f"{wanted.name}={version}"
        have = checksums.get(exact, "") if wanted.op == "><" else version
        if versions.satisfies(have, wanted.op, wanted.version):
            found.append(exact)
    return tuple(found)


def worst_first(rankings: Iterable[Sequence[int]]) -> list[int]:
    """One order of all providers, worst first, that agrees with the rankings; where two disagree, with the earlier one."""
    worse: dict[int, list[int]] = {}
    for ranking in rankings:
        numbers = [abs(number) for number in ranking]
        for number in numbers:
            worse.setdefault(number, [])
        for better, next_best in itertools.pairwise(numbers):
            if next_best not in worse[better] and not _reaches(worse, next_best, better):
                worse[better].append(next_best)
    order: dict[int, None] = {}
    for start in worse:
        stack = [start]
        while stack:
            number = stack[-1]
            if left := [item for item in worse[number] if item not in order]:
                stack += left
            else:
                order[stack.pop()] = None
    return list(order)


def _reaches(graph: dict[int, list[int]], start: int, end: int) -> bool:
    stack, seen = [start], {start}
    while stack:
        number = stack.pop()
        if number == end:
            return True
        new = [item for item in graph[number] if item not in seen]
        seen.update(new)
        stack += new
    return False


def dump_choices(links: Links, path: str) -> None:
    """Write choices to a file, one name a line; `+` marks what is asked for."""
    with open(path, "w", encoding="utf-8") as out:  # noqa: PTH123 (pathlib is slow to import)
        for name, numbers in sorted(links.choices.items()):
            out.write(f"{'+' if name in links.asked else '-'} {name} {' '.join(map(str, numbers))}\n")


def load_choices(path: str) -> Links:
    """What `dump_choices` wrote; the digest behind the last line is passed over."""
    choices, asked = {}, []
    with open(path, "rb") as stream:  # noqa: PTH123
        for line in stream.read()[:-32].decode().splitlines():
            mark, name, *numbers = line.split(" ")
            choices[name] = tuple(map(int, numbers))
            if mark == "+":
                asked.append(name)
    return Links(choices, frozenset(asked), {})
