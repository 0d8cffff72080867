# SPDX-License-Identifier: Apache-2.0
"""The commands that change a root: add, del, fix, upgrade."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.apk import version as versions
from pipeline.apk.package import checksum_of, read_package
from pipeline.apk.pkginfo import Dependency
from pipeline.errors import FormatError
from pipeline.lab.apktool.changes import plan
from pipeline.lab.apktool.commit import Commit
from pipeline.lab.apktool.errors import ApkError, error, warning
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import VIRTUAL, Package, dependency
from pipeline.lab.apktool.session import Session
from pipeline.lab.apktool.solver import Policy, Unsolvable, solve


def add(options: Options) -> int:
    """`apk add`: the arguments enter the world."""
    session = Session(options, write=True)
    wanted = [_wanted(session, argument) for argument in options.arguments]
    if options.flag("virtual"):
        wanted = [_virtual(session, options.value("virtual"), wanted)]
    replaced = {dep.name for dep in wanted}
    world = [dep for dep in session.database.world if dep.name not in replaced] + wanted
    upgrade = frozenset(replaced) if options.flag("upgrade") or options.flag("latest") else False
    return _commit(session, world, Policy(selectable=session.selectable, upgrade=upgrade, latest=options.flag("latest")))


def delete(options: Options) -> int:
    """`apk del`: the arguments leave the world, and with them what nothing else needs."""
    session = Session(options, write=True)
    installed = session.database.installed
    names: list[str] = []
    for argument in options.arguments:
        name = dependency(argument).name
        known = name in installed or any(dep.name == name for dep in session.database.world)
        found = [name] if known else [package.name for package, _ in session.universe.providers(name) if package.installed]
        if not found:
            error(f"No such package: {name}")
            return 1
        names += found
    if options.flag("rdepends"):
        names += [dep.name for dep in session.database.world if _reaches(session, dep, frozenset(names))]
    world = [dep for dep in session.database.world if dep.name not in names]
    policy = Policy(selectable=session.selectable)
    chosen = _solve(session, world, policy)
    left = [name for name in dict.fromkeys(names) if name in chosen]
    if left:
        session.say("World updated, but the following packages are not removed due to:")
        for name in left:
            reached_by = [dep.name for dep in world if _reaches(session, dep, frozenset((name,)))]
            session.say(f"  {name}: {' '.join(reached_by)}")
        session.say("")
    changes = plan(world, installed, chosen, session.universe)
    return Commit(session.database, session.repositories, options).run(changes, world)


def fix(options: Options) -> int:
    """`apk fix`: install the named packages (all broken ones, without a name) once more."""
    session = Session(options, write=True)
    installed = session.database.installed
    names = session.find(options.arguments) or [name for name, package in installed.items() if "f" in package.field("f")]
    for name in names:
        if name not in installed:
            error(f"{name} is not installed")
            return 1
    again = set(names)
    if options.flag("depends"):
        for name in names:
            again |= {package.name for dep in installed[name].depends for package in session.providers(dep) if package.installed}
    upgrade = frozenset(again) if options.flag("upgrade") else False
    policy = Policy(selectable=session.selectable, upgrade=upgrade)
    return _commit(session, session.database.world, policy, frozenset(again))


def upgrade(options: Options) -> int:
    """`apk upgrade`: the newest that repositories have, for all packages or the named ones."""
    session = Session(options, write=True)
    world = list(session.database.world)
    names = session.find(options.arguments)
    if options.flag("prune"):
        world = [dep for dep in world if any(package.repositories for package in session.providers(dep))]
    selected: bool | frozenset[str] = True
    if options.flag("ignore"):
        selected = frozenset(session.universe.names()) - frozenset(names)
    elif names:
        selected = frozenset(names)
    elif options.flag("self-upgrade-only"):
        selected = frozenset(("apk-tools",))
    available = options.flag("available")
    policy = Policy(selectable=session.selectable, upgrade=selected, available=available, latest=options.flag("latest"))
    return _commit(session, world, policy)


def _commit(session: Session, world: Sequence[Dependency], policy: Policy, again: frozenset[str] = frozenset()) -> int:
    ordered = sorted({str(dep): dep for dep in world}.values(), key=lambda dep: (dep.name, str(dep)))
    chosen = _solve(session, ordered, policy)
    changes = plan(ordered, session.database.installed, chosen, session.universe, again)
    return Commit(session.database, session.repositories, session.options).run(changes, ordered)


def _solve(session: Session, world: Sequence[Dependency], policy: Policy) -> dict[str, Package]:
    while True:
        try:
            return dict(solve(session.universe, world, policy))
        except Unsolvable as problem:
            from pipeline.lab.apktool.explain import explain

            if not session.options.flag("force-broken-world"):
                count = sum(1 for name in problem.state.needs if not problem.state.holders.get(name))
                raise ApkError(explain(problem.state, session.masked), max(1, min(count, 99))) from None
            kept = [dep for dep in world if problem.state.provided(dep) != dep.conflict]
            world = kept if len(kept) < len(world) else world[:-1]


def _reaches(session: Session, start: Dependency, names: frozenset[str]) -> bool:
    """Whether an entry of the world brings one of the named packages in."""
    seen: set[str] = set()
    todo = [package for package in session.providers(start) if package.installed]
    while todo:
        package = todo.pop()
        if package.name in names:
            return True
        if package.name not in seen:
            seen.add(package.name)
            for dep in package.depends:
                todo += [other for other in session.providers(dep) if other.installed and not dep.conflict]
    return False


def _wanted(session: Session, argument: str) -> Dependency:
    """The world's entry for an argument: a dependency, or a package file pinned by its checksum."""
    if (argument.endswith(".apk") and "/" in argument) or Path(argument).is_file():
        return _file(session, Path(argument))
    if "@" in argument:
        warning(f"The repository tag for world dependency '{argument}' does not exist")
        raise ApkError("Not committing changes due to missing repository tags. Use --force-broken-world to override.", 99)
    try:
        return dependency(argument)
    except FormatError:
        raise ApkError(f"'{argument}' is not a valid world dependency, format is name(@tag)([<>~=]version)") from None


def _file(session: Session, path: Path) -> Dependency:
    with path.open("rb") as stream:
        archive = read_package(stream, session.repositories.verifier, name=str(path))
    info = archive.info
    lines = {
        "C": archive.checksum, "P": info.name, "V": info.version, "A": info.arch,
        "S": str(path.stat().st_size), "I": str(info.size),
        "T": info.description, "U": info.url, "L": info.license, "o": info.origin, "m": info.maintainer,
        "t": str(info.builddate or ""), "c": info.commit, "k": str(info.provider_priority or ""), "D": " ".join(info.depends),
        "p": " ".join(info.provides), "i": " ".join(info.install_if),
    }  # fmt: skip
    record = "\n".join(f"{letter}:{value}" for letter, value in lines.items() if value or letter in "CPVSITUL")
    package = session.universe.add(Package(record))
    package.file = path
    return dependency(f"{info.name}><{archive.checksum}")


def _virtual(session: Session, name: str, wanted: Sequence[Dependency]) -> Dependency:
    """A package without files that depends on the arguments."""
    if not versions.is_valid(name) and name[:1] not in "." and not name.replace("-", "").isalnum():
        raise ApkError(f"{name}: not a name for a virtual package")
    version = time.strftime("%Y%m%d.%H%M%S", time.gmtime())
    head = f"P:{name}\nV:{version}\nA:noarch\nS:0\nI:0\nT:{VIRTUAL}\nU:\nL:\nD:{' '.join(map(str, wanted))}"
    digest = hashlib.sha1(head.encode(), usedforsecurity=False).digest()
    session.universe.add(Package(f"C:{checksum_of(digest)}\n{head}"))
    return dependency(f"{name}={version}")
