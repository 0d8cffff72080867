# SPDX-License-Identifier: Apache-2.0
"""The search for one world's packages, by the rules of apk, so that it gives apk's answer.

apk never takes back a decision. It notes what is needed and what follows from that: a name with one package left needs
the package's dependencies; of several packages for a name, the dependencies that all share are needed; a package that can
no longer be installed drops out, with all that depends on it. When nothing else follows, it decides on one name
(`pipeline.apk.solver.queue`), and takes the best package for it (`_better`). Packages that this one excludes drop out;
packages that wait for it by install_if come in. If a decision breaks a condition, apk has no answer; the search then
continues only to find the reasons.
"""

from __future__ import annotations

from bisect import insort
from collections import deque

from pipeline.apk.solver.queue import Queue2, Queue3
from pipeline.apk.solver.state import NONE, Name, PackageState, State
from pipeline.apk.solver.tables import HIDDEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.apk.solver.state import Condition, Offer, Taken
    from pipeline.apk.solver.tables import Tables


class Search(State):
    """The search for one world's packages; call `run` once."""

    def __init__(self, tables: Tables, generation: int, world: Sequence[Condition], numbers: Sequence[int]) -> None:
        super().__init__(tables, generation)
        self.world = world
        self.failures = False
        self._numbers = numbers
        self._queue = Queue3() if generation > 2 else Queue2()
        self._dirty: deque[Name] = deque()
        self._dependents: dict[int, list[Name]] = {}
        self._touched: set[int] = set()
        self._picked: set[int] = set()
        self._asked = {item.name for item in world}

    def run(self) -> list[PackageState]:
        """Return the packages in apk's order of installation; if there are `failures`, they are not a solution."""
        for item in self.world:
            self._want(None, item)
        while True:
            while self._dirty:
                name = self._dirty.popleft()
                if name.dirty:
                    name.dirty = False
                    self._reconsider(name)
            chosen = self._queue.pop()
            if chosen is None:
                return self._collect()
            self._decide(chosen)

    def _open(self, number: int) -> Name:
        """Return the state of a name."""
        name = self.names.get(number)
        if name is None:
            offers = self.offers(number)
            real = any(package.name == number for package, _version in offers)
            rank = self._queue.rank(self._numbers[number], asked=number in self._asked, real=real)
            name = self.names[number] = Name(number, offers, self.tables.asking[number], rank)
        return name

    def _mark(self, name: Name) -> None:
        """Have a name examined again, if anything depends on its state."""
        if name.dirty or name.number in self.chosen or not (name.wanted or name.check_install_if):
            return
        if not name.registered:
            name.registered = True
            for number in {item.name for package, _version in name.offers for item in package.depends}:
                insort(self._dependents.setdefault(number, []), name)
                name.check_depends |= number in self._touched
        name.dirty = True
        self._dirty.append(name)

    def _touch(self, number: int) -> None:
        """Note that other packages may fulfil a name now: examine again those that depend on it."""
        self._touched.add(number)
        for name in self._dependents.get(number, ()):
            name.check_depends = True
            self._mark(name)

    def _wake(self, number: int) -> None:
        """Note that a name has changed: examine again the names that wait for it."""
        pairs = iter(self.tables.waiting[number])
        for waiting, other in zip(pairs, pairs, strict=True):
            name = self.names.get(waiting)
            if name is None or not name.wanted:
                # A package that comes in only if another name does as well can wait for that name. apk examines it
                # now, and it may drop out; that matters only if something depends on it.
                waits = other >= 0 and other not in self.chosen and not self.tables.asking[waiting]
                if waits or not self._numbers[waiting]:
                    continue
                name = name or self._open(waiting)
            if not name.never_by_itself:
                name.check_install_if = True
                self._mark(name)

    def _drop(self, package: PackageState) -> None:
        """Note that a package cannot be installed."""
        package.usable = False
        for number in package.names:
            self._touch(number)
        for number in package.watched:
            self._wake(number)

    def _require(self, number: int) -> None:
        """Note that a name is needed."""
        name = self._open(number)
        if name.wanted:
            return
        name.wanted = True
        if number not in self.chosen:
            self._queue.put(name)
        self._wake(number)
        self._mark(name)

    def _want(self, owner: PackageState | None, item: Condition) -> None:
        """Note that a condition has to hold: packages that do not fulfil it drop out."""
        if not item.conflict:
            self._require(item.name)
            if not item.op:
                return
        for offer in self._open(item.name).offers:
            if offer[0].usable and not self.fulfils(owner, item, offer):
                self._drop(offer[0])

    def _reconsider(self, name: Name) -> None:
        """Examine a name's packages again, and note what follows from them."""
        check_install_if, name.check_install_if = name.check_install_if, False
        if name.check_depends:
            name.check_depends = False
            self._drop_broken(name)
        usable = [offer for offer in name.offers if offer[0].usable]
        if check_install_if:
            for package, _version in usable:
                self._check_install_if(package)
        name.never_by_itself = all(package.fails_install_if for package, _version in usable)
        name.comes_by_itself = any(package.triggered for package, _version in usable)
        candidates = usable if name.wanted else []
        for package, _version in candidates:
            package.considered = True
        selectable = name.comes_by_itself or any(map(self.is_selectable, candidates))
        changed, name.selectable = selectable != name.selectable, selectable
        name.has_options = len(candidates) > 1
        if self.generation < 3:
            self._queue.put(name)
        if candidates and candidates != name.candidates:
            name.candidates = candidates
            self._follow(name, candidates)
        name.is_last = self._is_last(name)
        if self.generation > 2:
            self._queue.put(name, again=changed)

    def _drop_broken(self, name: Name) -> None:
        """Drop packages whose dependencies can no longer be fulfilled."""
        for package, _version in name.offers:
            if package.usable and not all(self._can_be(package, item) for item in package.depends):
                self._drop(package)

    def _can_be(self, owner: PackageState, item: Condition) -> bool:
        """Tell whether a condition can still be fulfilled."""
        taken = self.chosen.get(item.name)
        if taken is not None:
            return self.fulfils(owner, item, taken)
        name = self.names.get(item.name)
        if item.conflict and not (name and name.wanted):
            return True
        offers = name.offers if name else self.offers(item.name)
        return any(offer[0].usable and self.fulfils(owner, item, offer) for offer in offers)

    def _check_install_if(self, package: PackageState) -> None:
        """Find out whether a package comes in by install_if."""
        if package.triggered or package.fails_install_if:
            return
        for item in package.install_if:
            taken = self.chosen.get(item.name)
            if taken is None:
                if item.conflict and self.generation > 2:
                    # apk 3 decides on the name then, even if only that it stays empty.
                    name = self._open(item.name)
                    name.undecided = True
                    self._queue.put(name)
                return
            if not self.fulfils(package, item, taken):
                package.fails_install_if = True
                return
        package.triggered = True

    def _follow(self, name: Name, candidates: Sequence[Offer]) -> None:
        """Note the dependencies that all remaining packages of a name share."""
        first = candidates[0][0]
        needs = [{item.name for item in package.depends if not item.conflict} for package, _version in candidates]
        common = set.intersection(*needs)
        for item in first.depends:
            if item.name in common:
                common.remove(item.name)
                if len(candidates) == 1:
                    self._want(first, item)
                else:
                    self._require(item.name)
        for number in dict.fromkeys(first.names):
            rivals = self.rivals(number) if number != name.number else ()
            if rivals and all(number in package.name_set for package, _version in candidates):
                bare = any(
                    version is None if number == package.name else package.gives_bare(number) for package, version in candidates
                )
                self._exclude(rivals, name.number, among_bare=bare)

    def _exclude(self, offers: Sequence[Offer], needed: int, *, among_bare: bool) -> None:
        """Exclude packages that provide a name but not `needed`, because the package that is chosen must provide both."""
        for package, version in offers:
            spared = among_bare and (version is None or package.has_bare)
            if package.usable and needed not in package.name_set and not spared:
                self._drop(package)

    def _is_last(self, name: Name) -> bool:
        """Tell whether everything that depends on a name, and may matter, has been decided."""
        while name.asking:
            if name.asking[-1] not in self._picked and not self._is_decided(name.asking[-1]):
                return False
            name.asking.pop()
        return True

    def _is_decided(self, package: int) -> bool:
        """Tell whether the names of a package that was not chosen all went to other packages, as far as they matter."""
        names = (self.tables.package_name[package], *self.tables.provides[package][::2])
        known = [number for number in names if self._numbers[number]]
        if known and self.tables.package_flags[package] & HIDDEN:
            return False
        return all(number in self.chosen for number in known)

    def _decide(self, name: Name) -> None:
        """Choose the best package for a name, or note that there is none."""
        best: Offer | None = None
        for offer in name.offers if name.wanted or name.comes_by_itself else ():
            may = name.wanted or (offer[0].triggered and offer[0].usable)
            if may and self.is_selectable(offer) and (best is None or self._better(offer, best) > 0):
                best = offer
        if best is None:
            self._assign(name.number, NONE)
            self.failures |= name.wanted
            return
        package = best[0]
        self.failures |= not package.usable
        self._picked.add(package.number)
        for number, version in ((package.name, package.version), *package.provided):
            self._assign(number, (package, version))
        for item in package.depends:
            self._want(package, item)

    def _better(self, a: Offer, b: Offer) -> int:
        """Compare two packages; above zero if apk prefers `a` to `b`."""
        (package, version), (other, other_version) = a, b
        order = (package.usable - other.usable) or (package.considered - other.considered)
        order = order or self.compare(version, other_version)
        if not order and package.name == other.name:
            order = self.compare(package.version, other.version)
        return order or package.priority - other.priority or other.index - package.index

    def _assign(self, number: int, taken: Taken) -> None:
        """Assign a package, or none, to a name."""
        package, version = taken
        if number in self.chosen:
            # Several packages may have a name if all of them provide it without a version.
            self.failures |= version is not None or self.chosen[number][1] is not None
            return
        self.chosen[number] = taken
        name = self.names.get(number)
        if name is not None:
            name.dirty = False
            self._queue.remove(name)
        if package and package.triggered and self.generation > 2 and not (name and name.wanted):
            for item in package.install_if:
                if item.name not in self.chosen:
                    self._want(package, item)
        for other, other_version in name.offers if name else self.rivals(number):
            if other is not package and (version is not None or other_version is not None):
                self._drop(other)
        self._touch(number)
        for woken in package.watched if package else (number,):
            self._wake(woken)

    def _collect(self) -> list[PackageState]:
        """Return the chosen packages that the world leads to, each after its dependencies."""
        found: dict[PackageState, None] = {}
        entered: set[int] = set()
        done: set[int] = set()

        def leads_to(package: PackageState) -> Iterator[int]:
            for item in package.depends:
                self.failures |= not self.fulfils(package, item, self.chosen.get(item.name, NONE))
                yield item.name
            found[package] = None
            for number in package.watched:
                yield from (waiting for waiting in self.tables.waiting[number][::2] if self._comes_in(waiting, done))

        above: list[Iterator[int]] = [iter([item.name for item in self.world])]
        while above:
            number = next(above[-1], None)
            if number is None:
                above.pop()
            elif number not in done:
                done.add(number)
                package = self.chosen.get(number, NONE)[0]
                if package is not None and package.number not in entered:
                    entered.add(package.number)
                    done.update(package.names)
                    above.append(leads_to(package))
        self.failures |= not all(self.fulfils(None, item, self.chosen.get(item.name, NONE)) for item in self.world)
        return list(found)

    def _comes_in(self, number: int, done: set[int]) -> bool:
        """Tell whether a name's package is installed because everything that its install_if names is."""
        package = self.chosen.get(number, NONE)[0]
        if package is None or number in done:
            return False
        for item in package.install_if:
            if item.name not in done and not (item.conflict and self.generation > 2):
                return False
            if not self.fulfils(package, item, self.chosen.get(item.name, NONE)):
                return False
        return True
