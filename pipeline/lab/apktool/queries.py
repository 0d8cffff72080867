# SPDX-License-Identifier: Apache-2.0
"""The commands that only look: list, policy, search, stats, version."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pipeline.apk import version as versions
from pipeline.lab.apktool.errors import ApkError
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package
from pipeline.lab.apktool.session import Session

_SIGNS = {-1: "<", 0: "=", 1: ">"}


def version(options: Options) -> int:
    """`apk version`: compare installed packages with the repositories, or test version texts."""
    if options.flag("test"):
        return _test(options)
    if options.flag("check"):
        bad = [text for text in options.arguments if not versions.is_valid(text)]
        if options.verbosity > 0:
            for text in bad:
                print(text)
        return min(len(bad), 125)
    session = Session(options)
    if options.flag("indexes"):
        for repository in session.repositories.list:
            print(f"{repository.description} [{repository.address}]")
        return 0
    limit = options.value("limit")
    if options.verbosity > 0:
        print(f"{'Installed:':<42}Available:")
    for name in session.find(options.arguments) or sorted(session.database.installed):
        package = session.database.installed.get(name)
        if package is not None:
            _compare(session, package, limit or ("<" if not options.arguments and options.verbosity < 2 else "<=>?"))
    return 0


def _test(options: Options) -> int:
    if len(options.arguments) != 2:
        raise ApkError("version --test wants two versions")
    left, right = options.arguments
    valid = versions.is_valid(left) and versions.is_valid(right)
    print(_SIGNS[versions.compare(left, right)] if valid else "?")
    return 0


def _compare(session: Session, package: Package, limit: str) -> None:
    available = session.universe.newest(other for other in session.universe.named(package.name) if other.repositories)
    sign = _SIGNS[versions.compare(package.version, available.version)] if available else "?"
    if sign not in limit:
        return
    if session.options.verbosity < 1:
        print(package.name)
    else:
        print(f"{package.full_name:<40}{sign} {available.version if available else ''} ")


def search(options: Options) -> int:
    """`apk search`: packages of the repositories whose name (or description, or provides) matches."""
    session = Session(options)
    found: list[str] = []
    for name in session.universe.names():
        packages = [package for package in session.universe.named(name) if package.repositories or options.flag("from")]
        for package in packages if options.flag("all") else packages[-1:]:
            if not options.arguments or any(_matches(options, package, pattern) for pattern in options.arguments):
                found += _search_lines(session, package)
    for line in found:
        print(line)
    return 0


def _search_lines(session: Session, package: Package) -> list[str]:
    options = session.options
    if options.flag("rdepends"):
        others = [other.full_name for other in session.universe.packages if other.needs(package)]
        return [f"{package.full_name} is required by:", *sorted(others)] if options.verbosity > 0 else sorted(others)
    if options.flag("origin"):
        name = package.field("o") or package.name
        return [f"{name}-{package.version}" if options.verbosity > 0 else name]
    if options.verbosity > 1:
        return [f"{package.full_name} - {package.field('T')}"]
    return [package.full_name if options.verbosity > 0 else package.name]


def _matches(options: Options, package: Package, pattern: str) -> bool:
    if options.flag("has-origin"):
        return package.field("o") == pattern
    names = [name for name, _ in package.provided]
    if options.flag("exact"):
        return any(fnmatchcase(name, pattern) for name in names)
    loose = pattern.lower() if any(char in pattern for char in "*?[") else f"*{pattern.lower()}*"
    if options.flag("description") and fnmatchcase(package.field("T").lower(), loose):
        return True
    if fnmatchcase(package.name.lower(), loose):
        return True
    return any(":" in pattern and fnmatchcase(name.lower(), loose) for name in names)


def list_packages(options: Options) -> int:
    """`apk list`."""
    session = Session(options)
    for name in session.universe.names():
        for package in session.universe.named(name):
            wanted = not options.arguments or any(_list_match(options, package, item) for item in options.arguments)
            if wanted and _listed(session, package):
                _print_listed(session, package)
    return 0


def _listed(session: Session, package: Package) -> bool:
    options = session.options
    if options.flag("installed") and not package.installed:
        return False
    if options.flag("orphaned") and package.repositories:
        return False
    if options.flag("available") and not package.repositories:
        return False
    if options.flag("upgradable") or options.flag("upgradeable"):
        old = session.database.installed.get(package.name)
        return old is not None and bool(package.repositories) and versions.compare(package.version, old.version) > 0
    return True


def _list_match(options: Options, package: Package, pattern: str) -> bool:
    if options.flag("origin"):
        return fnmatchcase(package.field("o"), pattern)
    if options.flag("depends"):
        return any(fnmatchcase(dep.name, pattern) for dep in package.depends)
    if options.flag("providers"):
        return any(fnmatchcase(name, pattern) for name, _ in package.provided)
    return fnmatchcase(package.name.lower(), pattern.lower())


def _print_listed(session: Session, package: Package) -> None:
    if session.options.verbosity < 1:
        print(package.name)
        return
    lead = ""
    if session.options.flag("providers"):
        patterns = session.options.arguments
        lead = "".join(f"<{name}> " for name, _ in package.provided if any(fnmatchcase(name, item) for item in patterns))
    line = f"{lead}{package.full_name} {package.field('A')} {{{package.field('o') or package.name}}} ({package.field('L')})"
    old = session.database.installed.get(package.name)
    if package.installed:
        line += " [installed]"
    elif old is not None and versions.compare(package.version, old.version) > 0:
        line += f" [upgradable from: {old.full_name}]"
    print(line)


def policy(options: Options) -> int:
    """`apk policy`: the versions of a package, and where each comes from."""
    session = Session(options)
    for name in session.find(options.arguments):
        packages = session.universe.named(name)
        if not packages:
            continue
        print(f"{name} policy:")
        for package in packages:
            print(f"  {package.version}:")
            if package.installed:
                print("    lib/apk/db/installed")
            for number in package.repositories:
                print(f"    {session.repositories.list[number].address}")
    return 0


def stats(options: Options) -> int:
    """`apk stats`."""
    session = Session(options)
    installed = session.database.installed.values()
    files = sum(1 for package in installed for _ in session.database.files(package))
    size = sum(package.installed_size for package in installed)
    available = [package for package in session.universe.packages if package.repositories]
    print(f"installed:\n  packages: {len(installed)}\n  dirs: {len(session.database.folders_in_use()) + 1}\n  files: {files}")
    print(f"  bytes: {size}\n  triggers: {len(session.database.triggers)}")
    names = {name for package in session.universe.packages for name, _ in package.provided}
    print(f"available:\n  names: {len(names)}\n  packages: {len(available)}")
    return 0
