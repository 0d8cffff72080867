# SPDX-License-Identifier: Apache-2.0
"""Whether `pipeline.apk` chooses as a real apk does: asks both about many worlds, and counts.

    python ci/bench/solve.py worlds --apk /path/to/apk --index main/x86_64/APKINDEX.tar.gz --count 1000 --seed 1
    python ci/bench/solve.py small --apk /path/to/apk --count 1000 --seed 1
    python ci/bench/solve.py rules --apk /path/to/apk

`worlds` are random ones over whole indexes, which lie in folders of their architecture as in a repository (--index may be
repeated); `--record FILE` keeps apk's answers, names only, which is how tests/unit/apk/solve-cases-3.json was made. `small` are
random repositories of a few packages with all that makes choosing hard; `rules` those of the unit tests.
`--format 3` asks over indexes of format 3 (Packages.adb): for `worlds` apk's own `convndx` makes them of those given, for `small`
our writer does. `--generation 2` is for an apk 2. `--apk` may be a few words, as for an apk of musl on another system:
"ld-musl-x86_64.so.1 --library-path lib sbin/apk". Printed are differences, then one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from pipeline.apk.adb.writer import write_index  # noqa: E402
from pipeline.apk.format.index import IndexEntry, dump_entry, read_index  # noqa: E402
from pipeline.apk.format.pkginfo import parse_dependency  # noqa: E402
from pipeline.apk.solver.pool import Universe  # noqa: E402
from pipeline.apk.solver.solve import UnsolvableError, in_order  # noqa: E402
from tests.unit.apk.test_solver_rules import CASES  # noqa: E402
from tests.unit.apk.worlds import package  # noqa: E402

ARCH = "x86_64"
_INSTALLING = re.compile(r"\( *\d+/\d+\) Installing (\S+) \((\S*)\)")
_HELPERS = re.compile(r"-(doc|dev|lang|pyc|dbg|static|openrc|(bash|zsh|fish)-completion)$")
Answer = list[str] | None


class Apk:
    """A real apk, with an empty root."""

    def __init__(
        self, words: Sequence[str], scratch: Path, repositories: Iterable[Path], arch: str = ARCH, *, third: bool = False
    ) -> None:
        listed = scratch / "repositories"
        listed.write_text("".join(f"{'v3 ' if third else ''}{folder}\n" for folder in repositories))
        self._words = [*words, "--root", str(scratch / "root"), "--arch", arch, "--no-network", "--no-cache", "--allow-untrusted"]
        self._words += ["--repositories-file", str(listed)]
        (scratch / "root").mkdir()
        subprocess.run([*self._words, "--initdb", "add"], check=False, capture_output=True)

    def ask(self, world: Sequence[str]) -> Answer:
        """Return the packages that it would install, in its order; None if it has no answer."""
        done = subprocess.run([*self._words, "--simulate", "add", "--", *world], check=False, capture_output=True, text=True)
        if done.returncode:
            return None
        return [f"{found[1]}-{found[2]}" for found in map(_INSTALLING.fullmatch, done.stdout.splitlines()) if found]


def write_repository(folder: Path, entries: Iterable[IndexEntry], *, third: bool = False) -> None:
    """Write an unsigned index of packages, in the given order (that of format 3 is sorted)."""
    folder.mkdir(parents=True, exist_ok=True)
    if third:
        with (folder / "Packages.adb").open("wb") as out:
            write_index(out, "bench", entries, None)
        return
    text = "".join("\n".join(dump_entry(entry)) + "\n\n" for entry in entries).encode()
    with tarfile.open(folder / "APKINDEX.tar.gz", "w:gz") as archive:
        for name, data in (("DESCRIPTION", b"bench"), ("APKINDEX", text)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def ours(universe: Universe, world: Sequence[str]) -> Answer:
    """Return our answer, in apk's order."""
    try:
        return [str(item) for item in in_order(universe, world)]
    except UnsolvableError:
        return None


class RandomWorlds:
    """Generates worlds as people have them, and odder ones: plain packages, several providers, conditions, exclusions."""

    def __init__(self, entries: Sequence[IndexEntry], seed: str) -> None:
        self.random = random.Random(seed)  # noqa: S311  (the same worlds every time)
        self.versions = {entry.name: entry.version for entry in entries}
        self.names = sorted(self.versions)
        self.programs = [name for name in self.names if not _HELPERS.search(name)]
        providers: dict[str, set[str]] = {name: {name} for name in self.names}
        for entry in entries:
            for text in entry.provides:
                providers.setdefault(parse_dependency(text).name, set()).add(entry.name)
        self.provided = sorted(providers)
        self.several = sorted(name for name, found in providers.items() if len(found) > 1)
        self.rivals = sorted(set().union(*(providers[name] for name in self.several)))
        self.triggers = sorted({parse_dependency(text).name for entry in entries for text in entry.install_if})

    def condition(self, name: str) -> str:
        """Return a name with a condition on its version; some conditions cannot be met."""
        version = self.versions[name]
        plain = version.partition("-r")[0]
        begin = plain.partition("_")[0].rpartition(".")[0] or plain
        kinds = (f"={version}", f">={plain}", f"~{begin}", f"<={version}", ">0", "<99999999", f">{version}")
        return name + self.random.choice(kinds)

    def world(self) -> list[str]:
        """Return one world, sorted."""
        draw, count = self.random.sample, self.random.choice((1, 1, 2, 3, 4, 5, 6, 7, 8, 9))
        kind, found = self.random.random(), set(draw(self.programs, count))
        if kind < 0.45:
            found = set(draw(self.names, count))
        elif kind < 0.65:
            found |= set(draw(self.rivals, 2))
        elif kind < 0.72:
            found |= set(draw(self.triggers, min(count, 4)))
        elif kind < 0.80:
            found |= set(draw(self.several, min(count, 2)))
        elif kind < 0.85:
            found |= set(draw(self.provided, min(count, 3)))
        elif kind < 0.91:
            found |= {self.condition(name) for name in draw(self.programs, 2)}
        elif kind < 0.95:
            found.add("!" + self.random.choice(self.rivals))
        if self.random.random() < 0.5:
            found.add("alpine-base")
        return sorted({parse_dependency(text).name: text for text in sorted(found)}.values())


class SmallRepositories:
    """Generates random repositories of a few packages, and worlds for them."""

    names, extra = list("abcdefgh"), ["v", "w", "so:x", "so:y", "cmd:z"]
    versions = ("1-r0", "1.2-r0", "2-r0", "2_rc1-r0", "1-r1", "1", "1.05", "2_rc1")

    def __init__(self, seed: str, *, third: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311  (the same worlds every time)
        self.third = third
        self.easy = 0.0
        self.there = self.names

    def one(self) -> tuple[list[list[IndexEntry]], list[str]]:
        """Return the packages of two indexes, and a world."""
        draw = self.random.choice
        self.easy = draw((0, 0.7, 1, 1))
        self.there = [*self.random.sample(self.names, 5), *self.random.sample(self.extra, 2)]
        indexes = []
        for place, counts in enumerate(((3, 4, 5, 6, 7, 8), (0, 0, 1, 3))):
            entries = {entry.file_name: entry for entry in (self.package(place) for _ in range(draw(counts)))}
            indexes.append(list(entries.values()))
        world = [self.condition(0.08) if self.random.random() < 0.5 else draw(self.names) for _ in range(draw((1, 1, 2, 2, 3)))]
        return indexes, world

    def name(self) -> str:
        """Return a name; in easy repositories, mostly one that exists."""
        if self.random.random() < self.easy:
            return self.random.choice(self.there)
        return self.random.choice(self.names if self.random.random() < 0.6 else self.extra)

    def condition(self, excluding: float) -> str:
        """Return a dependency."""
        text = ("!" if self.random.random() < excluding else "") + self.name()
        if self.random.random() < 0.7 + 0.25 * self.easy:
            return text
        return text + self.random.choice(("<", "<=", ">", ">=", "=", "~", "<~", ">~")) + self.random.choice(self.versions)

    def package(self, place: int) -> IndexEntry:
        """Return a package; `place` makes those of two indexes differ."""
        draw = self.random.choice
        # Format 3 has no such versions: apk refuses to write them.
        broken = ("v3", "1.x") if self.random.random() < 0.05 and not self.third else ()
        fields: dict[str, str | int] = {
            "depends": " ".join(self.condition(0.12) for _ in range(draw((0, 0, 1, 1, 2, 3)))),
            "provides": " ".join(
                self.name() + (f"={draw(self.versions + broken)}" if self.random.random() < 0.55 else "")
                for _ in range(draw((0, 0, 0, 1, 1, 2, 3)))
            ),
            "provider_priority": draw((0, 0, 0, 1, 5, 10)),
            "description": f"{place} {self.random.random()}",
        }
        if self.random.random() < 0.22:
            fields["install_if"] = " ".join(self.condition(0.2) for _ in range(draw((1, 2, 2, 3))))
        name = draw(self.there[:5] if self.random.random() < self.easy else self.names)
        version = draw(self.versions[:5]) if self.random.random() < 0.5 - 0.4 * self.easy else "1-r0"
        return package(f"{name}-{version}", **fields)


def convert(words: Sequence[str], index: Path, folder: Path) -> Path:
    """Let apk convert an index to format 3; return its place, in a folder of its architecture."""
    made = folder / index.parent.name / "Packages.adb"
    made.parent.mkdir(parents=True)
    done = subprocess.run([*words, "--allow-untrusted", "convndx", str(index)], check=True, capture_output=True)
    made.write_bytes(done.stdout)
    return made


def compare_worlds(options: argparse.Namespace, scratch: Path) -> Iterator[tuple[Sequence[str], Answer, Answer]]:
    """Worlds over whole indexes."""
    third, words = options.format == 3, options.apk.split()
    indexes = [Path(name).resolve() for name in options.index]
    if third:
        indexes = [convert(words, index, scratch / str(number)) for number, index in enumerate(indexes)]
    parsed = []
    for path in indexes:
        with path.open("rb") as stream:
            parsed.append(read_index(stream, None).entries)
    arch = indexes[0].parent.name
    universe = Universe.of(parsed, arch, generation=options.generation)
    apk = Apk(words, scratch, [path.parent.parent for path in indexes], arch, third=third)
    worlds = RandomWorlds([entry for entries in parsed for entry in entries], options.seed)
    rows = []
    for _ in range(options.count):
        world = worlds.world()
        theirs = apk.ask(world)
        yield world, theirs, ours(universe, world)
        rows.append({"world": world, "install": None if theirs is None else sorted(item.rsplit("-", 2)[0] for item in theirs)})
    if options.record:
        lines = ",\n".join(json.dumps(row) for row in rows)
        Path(options.record).write_text(f"[\n{lines}\n]\n")


def compare_small(options: argparse.Namespace, scratch: Path) -> Iterator[tuple[Sequence[str], Answer, Answer]]:
    """Random repositories of a few packages, or those of the unit tests."""
    third = options.format == 3
    folders = [scratch / "first", scratch / "second"]
    apk = Apk(options.apk.split(), scratch, folders, third=third)
    random_ones = SmallRepositories(options.seed, third=third)
    cases: Iterable[tuple[list[list[IndexEntry]], list[str]]] = (random_ones.one() for _ in range(options.count))
    if options.what == "rules":
        cases = ((indexes, world.split()) for indexes, world, _newer, _older in CASES.values())
    for indexes, world in cases:
        for folder, entries in zip(folders, [*indexes, []], strict=False):
            write_repository(folder / ARCH, entries, third=third)
        universe = Universe.of(_as_read(folders) if third else indexes, ARCH, generation=options.generation)
        yield world, apk.ask(world), ours(universe, world)


def _as_read(folders: Iterable[Path]) -> list[Sequence[IndexEntry]]:
    """Return the packages of indexes of format 3, in the order in which they are there."""
    found: list[Sequence[IndexEntry]] = []
    for folder in folders:
        with (folder / ARCH / "Packages.adb").open("rb") as stream:
            found.append(read_index(stream, None).entries)
    return found


def main() -> None:
    """Ask both, and print the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("worlds", "small", "rules"))
    parser.add_argument("--apk", required=True, metavar="COMMAND")
    parser.add_argument("--generation", type=int, choices=(2, 3), default=3)
    parser.add_argument("--format", type=int, choices=(2, 3), default=2)
    parser.add_argument("--index", action="append", default=[], metavar="FILE")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--record", metavar="FILE")
    options = parser.parse_args()
    count = equal = ordered = solved = 0
    with tempfile.TemporaryDirectory() as scratch:
        compare = compare_worlds if options.what == "worlds" else compare_small
        for world, theirs, answer in compare(options, Path(scratch)):
            count += 1
            solved += theirs is not None
            same = theirs == answer or (theirs is not None and answer is not None and sorted(theirs) == sorted(answer))
            equal += same
            ordered += theirs == answer
            if not same:
                less, more = sorted(set(theirs or ()) - set(answer or ())), sorted(set(answer or ()) - set(theirs or ()))
                print(json.dumps({"world": world, "apk only": less, "ours only": more, "apk": theirs is not None}))
    print(json.dumps({"what": options.what, "asked": count, "solved": solved, "equal": equal, "in the same order": ordered}))


if __name__ == "__main__":
    main()
