# SPDX-License-Identifier: Apache-2.0
"""`apk info`: what is installed, and what is known of a package."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.apk.pkginfo import Dependency
from pipeline.lab.apktool.commit import human
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.errors import error
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package, dependency
from pipeline.lab.apktool.session import Session

# In the order of `--all`: option, heading, the answer.
_ALL = ("description", "webpage", "size", "depends", "provides", "rdepends", "contents", "triggers", "install-if", "rinstall-if",
        "replaces", "license")  # fmt: skip
_HEADINGS = {
    "contents": "contains:",
    "depends": "depends on:",
    "description": "description:",
    "install-if": "has auto-install rule:",
    "license": "license:",
    "provides": "provides:",
    "rdepends": "is required by:",
    "replaces": "replaces:",
    "rinstall-if": "affects auto-installation of:",
    "size": "installed size:",
    "triggers": "triggers:",
    "webpage": "webpage:",
}


def info(options: Options) -> int:
    """`apk info`."""
    session = Session(
        options, repositories=bool(options.arguments) and not options.flag("installed") and not options.flag("who-owns")
    )
    if options.flag("who-owns"):
        return _who_owns(session)
    if options.flag("installed"):
        return _exists(session)
    if not options.arguments:
        for name in sorted(session.database.installed):
            _show_name(options, session.database.installed[name])
        return 0
    wanted = [name for name in _ALL if options.flag(name) or options.flag("all")] or ["description", "webpage", "size"]
    missing = 0
    for argument in options.arguments:
        package = _find(session, dependency(argument))
        if package is None:
            missing += 1
        else:
            for subject in wanted:
                _show(session, package, subject)
    return min(missing, 125)


def _find(session: Session, wanted: Dependency) -> Package | None:
    found = session.providers(wanted)
    installed = [package for package in found if package.installed]
    return installed[0] if installed else session.universe.newest(found)


def _show_name(options: Options, package: Package) -> None:
    text = package.full_name if options.verbosity > 1 else package.name
    print(f"{text} - {package.field('T')}" if options.verbosity > 2 else text)


def _exists(session: Session) -> int:
    missing = 0
    for argument in session.options.arguments:
        wanted = dependency(argument)
        found = [package for package in session.providers(wanted) if package.installed]
        if bool(found) == wanted.conflict:
            missing += 1
        elif session.options.verbosity > 0:
            print(argument if session.options.verbosity == 1 or not found else found[0].full_name)
    return min(missing, 125)


def _who_owns(session: Session) -> int:
    """Paths are looked up in the root, through its links."""
    fs, owners = session.database.fs, session.database.owners
    missing = 0
    for argument in session.options.arguments:
        path = argument.strip("/")
        names = {path, str(fs.place(path).relative_to(fs.path))}
        place = fs.place(path)
        through = ""
        if place.is_symlink() and not names & owners.keys():
            target = fs.folder(path)
            names.add(str(target.relative_to(fs.path)))
            through = f"symlink target of {target.relative_to(fs.path)} "
        found = next((owners[name] for name in sorted(names) if name in owners), None)
        if found is None:
            error(f"{argument}: Could not find owner package")
            missing += 1
        elif session.options.verbosity < 1:
            print(found)
        else:
            print(f"{argument} {through}is owned by {session.database.installed[found].full_name}")
    return min(missing, 125)


def _show(session: Session, package: Package, subject: str) -> None:
    lines = list(_SUBJECTS[subject](session, package))
    if session.options.verbosity > 1:
        print("\n".join(f"{package.name}: {line}" for line in lines))
    else:
        print(f"{package.full_name} {_HEADINGS[subject]}")
        print("\n".join([*lines, ""]))


def _required_by(session: Session, package: Package) -> list[str]:
    others = session.database.installed.values()
    return sorted(
        other.full_name
        for other in others
        if other is not package and any(not dep.conflict and package.provides(dep) for dep in other.depends)
    )


def _affected(session: Session, package: Package) -> list[str]:
    return sorted(
        {other.full_name for name, _ in package.provided for other in session.universe.triggered_by(name) if other is not package}
    )


def _words(letter: str) -> Callable[[Session, Package], Iterable[str]]:
    return lambda _, package: package.field(letter).split()


_SUBJECTS: dict[str, Callable[[Session, Package], Iterable[str]]] = {
    "contents": lambda _, package: [path for path, _ in Database.files(package)],
    "depends": _words("D"),
    "description": lambda _, package: [package.field("T")],
    "install-if": _words("i"),
    "license": lambda _, package: [package.field("L")],
    "provides": _words("p"),
    "rdepends": _required_by,
    "replaces": _words("r"),
    "rinstall-if": _affected,
    "size": lambda _, package: [human(package.installed_size)],
    "triggers": lambda session, package: session.database.triggers.get(package.checksum, ()),
    "webpage": lambda _, package: [package.field("U")],
}
