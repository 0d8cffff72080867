# SPDX-License-Identifier: Apache-2.0
"""The commands about repositories and package files: fetch, index, verify, update, cache."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.apk.package import read_package
from pipeline.apk.pkginfo import Dependency
from pipeline.errors import FactoryError, FormatError, VerifyError
from pipeline.lab.apktool.errors import ApkError, error, warning
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package, dependency
from pipeline.lab.apktool.repository import reason
from pipeline.lab.apktool.session import Session
from pipeline.lab.apktool.solver import Policy, Unsolvable, solve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from pipeline.apk.index import IndexEntry

_CHUNK = 1 << 20


def fetch(options: Options) -> int:
    """`apk fetch`: copy packages out of the repositories, each checked against the signed index."""
    session = Session(options, installed=False)
    wanted = [dependency(name) for name in session.find(options.arguments)]
    if options.flag("world"):
        wanted += [dep for dep in session.database.world if not dep.conflict]
    errors = 0
    chosen: dict[str, Package] = {}
    groups = [wanted] if options.flag("world") else [[dep] for dep in wanted]
    recursive = options.flag("recursive") or options.flag("world")
    if recursive and len(groups) > 1 and _closure(session, wanted) is not None:
        groups = [wanted]
    for group in groups:
        found = _closure(session, group) if recursive else _best(session, group[0])
        if found is None:
            sys.stderr.write(f"{group[0]}: unable to select package (or its dependencies)\n")
            errors += 1
        else:
            chosen.update(found)
    earliest = int(options.value("built-after", "0") or 0)
    for name in sorted(chosen):
        package = chosen[name]
        if package.repositories and int(package.field("t") or 0) >= earliest:
            try:
                _fetch(session, package)
            except (OSError, FactoryError, ApkError) as problem:
                text = problem.message if isinstance(problem, FactoryError) else reason(problem)
                error(f"{package.full_name}: {text}")
                errors += 1
    return min(errors, 125)


def _closure(session: Session, wanted: list[Dependency]) -> dict[str, Package] | None:
    try:
        return dict(solve(session.universe, wanted, Policy(selectable=session.selectable)))
    except Unsolvable:
        return None


def _best(session: Session, wanted: Dependency) -> dict[str, Package] | None:
    found = session.universe.newest(package for package in session.providers(wanted) if package.name == wanted.name)
    found = found or session.universe.newest(session.providers(wanted))
    return {found.name: found} if found else None


def _fetch(session: Session, package: Package) -> None:
    options = session.options
    if options.flag("url"):
        print(session.repositories.first_url(package))
    elif options.flag("stdout"):
        _fetch_to_stdout(session, package)
    else:
        target = Path(options.value("output", ".")) / f"{package.full_name}.apk"
        if target.is_file() and target.stat().st_size == package.size and _is_package(target, package):
            return
        session.say(f"Downloading {package.full_name}")
        if not options.flag("simulate"):
            _fetch_to_file(session, package, target)


def _fetch_to_stdout(session: Session, package: Package) -> None:
    """What goes there cannot be taken back, so it is checked before the first byte."""
    import tempfile

    if session.options.flag("simulate"):
        return
    with session.repositories.open(package) as stream, tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(stream, kept, _CHUNK)
        kept.seek(0)
        if not _matches(kept, package):
            raise VerifyError(f"{package.full_name}.apk is not what the signed index names")
        kept.seek(0)
        shutil.copyfileobj(kept, sys.stdout.buffer, _CHUNK)
        sys.stdout.flush()


def _fetch_to_file(session: Session, package: Package, target: Path) -> None:
    source = session.repositories.local_path(package)
    if source is not None and session.options.flag("link") and _link(source, target, package):
        return
    new = target.with_name(f".{target.name}.new")
    try:
        with session.repositories.open(package) as stream, new.open("wb") as out:
            shutil.copyfileobj(stream, out, _CHUNK)
        if not _is_package(new, package):
            raise VerifyError(f"{package.full_name}.apk is not what the signed index names")
        new.chmod(0o644)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _link(source: Path, target: Path, package: Package) -> bool:
    if not _is_package(source, package):
        raise VerifyError(f"{source.name} is not what the signed index names")
    with suppress(FileNotFoundError):
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        return False  # another file system: copy
    return True


def _is_package(path: Path, package: Package) -> bool:
    with path.open("rb") as stream:
        return _matches(stream, package)


def _matches(stream: BinaryIO, package: Package) -> bool:
    """Whether a package's bytes are those the signed index names, data and all."""
    try:
        archive = read_package(stream, None, name=f"{package.full_name}.apk")
        if archive.checksum != package.checksum:
            return False
        archive.verify_data()
    except (FormatError, VerifyError):
        return False
    return True


def index(options: Options) -> int:
    """`apk index`: the index of package files, each of them verified."""
    from pipeline.apk.index import IndexEntry as Entry
    from pipeline.apk.index import entry_of, read_index, write_index

    session = Session(options, installed=False, repositories=False)
    verifier = session.repositories.verifier
    known: dict[str, Entry] = {}
    old_time = 0.0
    if options.flag("index"):
        path = Path(options.value("index"))
        if path.exists():
            old_time = path.stat().st_mtime
            with path.open("rb") as stream:
                known = {entry.file_name: entry for entry in read_index(stream, None, name=str(path)).entries}
    entries: list[Entry] = list(known.values()) if options.flag("merge") else []
    errors = 0
    for argument in options.arguments:
        path = Path(argument)
        try:
            reused = known.get(path.name)
            if reused is None or path.stat().st_mtime > old_time or path.stat().st_size != reused.size:
                entry = entry_of(path, verifier)
            else:
                entry = reused
        except (OSError, FactoryError) as problem:
            text = problem.message if isinstance(problem, FactoryError) else reason(problem)
            error(f"{argument}: {text}")
            errors += 1
            continue
        entries = [other for other in entries if (other.name, other.version) != (entry.name, entry.version)]
        if options.flag("rewrite-arch"):
            fields = {name: getattr(entry, name) for name in Entry.__slots__}
            entry = Entry(**{**fields, "arch": options.value("rewrite-arch")})
        entries.append(entry)
    if errors:
        error("Index not created.")
        return min(errors, 125)
    _warn_missing(session, entries)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    if options.flag("output"):
        target = Path(options.value("output"))
        new = target.with_name(f"{target.name}.new")
        with new.open("wb") as out:
            write_index(out, options.value("description"), entries, None, epoch)
        new.replace(target)
        session.say(f"Index has {len(entries)} packages")
    else:
        write_index(sys.stdout.buffer, options.value("description"), entries, None, epoch)
    return 0


def _warn_missing(session: Session, entries: Sequence[IndexEntry]) -> None:
    """Say how many names the packages need that none of them provides."""
    if session.options.flag("no-warnings"):
        return
    provided: set[str] = set()
    needed: set[str] = set()
    for entry in entries:
        provided.add(entry.name)
        provided.update(dependency(text).name for text in entry.provides)
        needed.update(dependency(text).name for text in entry.depends if not text.startswith("!"))
    missing = needed - provided
    if missing and session.options.verbosity > 0:
        warning(f"Total of {len(missing)} unsatisfiable package names. Your repository may be broken.")


def verify(options: Options) -> int:
    """`apk verify`: check signature and content of package files and indexes, one line for each."""
    from pipeline.lab.apktool.repository import read_index

    session = Session(options, installed=False, repositories=False)
    errors = 0
    for argument in options.arguments:
        try:
            with Path(argument).open("rb") as stream:
                if Path(argument).name.startswith("APKINDEX"):
                    read_index(stream, session.repositories.verifier, argument)
                else:
                    archive = read_package(stream, session.repositories.verifier, name=argument)
                    archive.verify_data()
        except FormatError as problem:
            session.say(f"{argument}: -1026 - {problem.message}")
            errors += 1
        except VerifyError as problem:
            session.say(f"{argument}: 0 - UNTRUSTED ({problem.message})")
            errors += 1
        except OSError as problem:
            session.say(f"{argument}: -{problem.errno} - {problem.strerror}")
            errors += 1
        else:
            session.say(f"{argument}: 0 - OK")
    return min(errors, 125)


def update(options: Options) -> int:
    """`apk update`: read the indexes anew, and say what they are."""
    session = Session(options, refresh=True)
    for repository in session.repositories.list:
        if repository.available:
            session.say(f"{repository.description} [{repository.address}]".strip())
    known = len({package.name + package.version for package in session.universe.packages if package.repositories})
    bad = session.repositories.unavailable
    verdict = f"{bad} unavailable, 0 stale;" if bad else "OK:"
    session.say(f"{verdict} {known} distinct packages available")
    return min(bad, 125)


def cache(options: Options) -> int:
    """`apk cache clean|purge|download|sync`: what is kept of packages from the network."""
    actions = options.arguments[:1]
    if actions not in (["clean"], ["purge"], ["download"], ["sync"]):
        raise ApkError("cache: wants one of clean, purge, download, sync")
    session = Session(options, write=True)
    folder = session.repositories.packages_cached
    if folder is None and actions[0] in ("download", "sync"):
        raise ApkError("Package cache is not enabled.", 2)
    folder = folder or session.database.fs.folder("var/cache/apk")
    if actions[0] in ("download", "sync"):
        wanted = [*session.database.world, *map(dependency, options.arguments[1:])]
        for package in (_closure(session, wanted) or {}).values():
            if package.repositories and session.repositories.local_path(package) is None:
                with session.repositories.open(package):
                    pass
    if actions[0] != "download":
        from pipeline.lab.apktool.repository import cached_name

        kept = {repository.cache_name for repository in session.repositories.list}
        if actions[0] != "purge":
            kept |= {cached_name(package) for package in session.database.installed.values()}
        for path in sorted(folder.glob("*")):
            if path.name not in kept and path.is_file():
                session.say(f"Removed {path.name}", 2)
                if not options.flag("simulate"):
                    path.unlink()
    return 0
