# SPDX-License-Identifier: Apache-2.0
"""Carries the steps out: announces each, lays or removes the package, runs scripts and triggers, writes the database.

A package that fails is reported and counted, and the others go on, as apk does; the exit status is the count.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.apk.package import Package as Archive
from pipeline.apk.package import read_package
from pipeline.apk.pkginfo import Dependency
from pipeline.errors import FactoryError, VerifyError
from pipeline.lab.apktool.changes import Change
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.errors import ApkError, error
from pipeline.lab.apktool.extract import Extractor
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package
from pipeline.lab.apktool.progress import Progress
from pipeline.lab.apktool.repository import Repositories, reason
from pipeline.lab.apktool.scripts import Scripts


def human(size: int) -> str:
    """A size as apk shows it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 10000:
            return f"{size} {unit}"
        size >>= 10
    return f"{size} TiB"


class Commit:
    """One change of a root."""

    def __init__(self, database: Database, repositories: Repositories, options: Options) -> None:
        self._database = database
        self._repositories = repositories
        self._options = options
        self._simulate = options.flag("simulate")
        self._scripts = Scripts(database, enabled=not options.flag("no-scripts"), verbosity=options.verbosity)
        self._progress = Progress(0, ())
        self._modified: set[str] = set()
        self._new: list[Package] = []
        self.errors = 0

    def run(self, changes: Sequence[Change], world: Sequence[Dependency]) -> int:
        """Take all steps and write the new world; returns the exit status."""
        if self._simulate:
            self._announce_all(changes)
            return self._finish()
        hooks = not self._options.flag("no-commit-hooks") and bool(changes)
        if hooks and not self._scripts.run_hooks("pre-commit"):
            raise ApkError("pre-commit hook failed, nothing was changed")
        self._extractor = Extractor(
            self._database,
            overlay=self._overlay(),
            chown=not self._options.flag("no-chown"),
            overwrite=self._options.flag("force-overwrite") or self._options.flag("force"),
            clean=self._options.flag("clean-protected"),
        )
        self._progress = Progress(int(self._options.value("progress-fd", "0")), changes)
        for number, change in enumerate(changes, 1):
            self._announce(number, len(changes), change)
            self._step(change)
            self._progress.finish(change)
        self.errors += self._scripts.run_triggers(self._modified, self._new)
        self._database.set_world(world)
        if changes or self._database.initdb:
            self._database.write()
        else:
            self._database.write_world()
        if hooks:
            self._scripts.run_hooks("post-commit")
        return self._finish()

    def _overlay(self) -> frozenset[str]:
        if not self._options.flag("overlay-from-stdin"):
            return frozenset()
        return frozenset(line.strip().removeprefix("./").strip("/") for line in sys.stdin)

    def _announce_all(self, changes: Sequence[Change]) -> None:
        for number, change in enumerate(changes, 1):
            self._announce(number, len(changes), change)

    def _announce(self, number: int, total: int, change: Change) -> None:
        if self._options.verbosity > 0:
            print(f"({number}/{total}) {change.describe()}", flush=True)

    def _step(self, change: Change) -> None:
        package = change.new or change.old
        assert package is not None  # noqa: S101  # a change has one of them
        try:
            if change.new is None:
                self._remove(package)
            elif change.new.is_virtual:
                self._keep(change.new, change.old)
            else:
                self._install(change.new, change.old)
        except (OSError, FactoryError, ApkError) as problem:
            error(f"{package.full_name}: {_failure(problem)}")
            self.errors += 1

    def _install(self, package: Package, old: Package | None) -> None:
        verifier = self._repositories.verifier if package.file is not None else None
        with self._repositories.open(package) as stream:
            archive = read_package(self._progress.reading(stream), verifier, name=f"{package.full_name}.apk")
            if archive.checksum != package.checksum:
                raise VerifyError(f"control is {archive.checksum}, the index says {package.checksum}")
            self._lay(package, archive, old)

    def _lay(self, package: Package, archive: Archive, old: Package | None) -> None:
        kinds = (".pre-upgrade", ".post-upgrade") if old else (".pre-install", ".post-install")
        arguments = (package.version, old.version) if old else (package.version,)
        if not self._scripts.run(package, kinds[0], arguments, archive.scripts.get(kinds[0])):
            raise ApkError(f"{kinds[0].lstrip('.')} script failed, the package was not installed")
        if archive.scripts.get(kinds[0]):
            self._extractor.owners.forget()
        database = self._database
        previous = Package(old.record) if old else None  # a reinstalled package is `old` and `package` in one
        layer, record = self._extractor.install(package, archive, _header(package, archive), previous)
        if layer.broken:
            self.errors += 1
            head, _, files = record.partition("\nF:")
            record = f"{head}\nf:f\nF:{files}"
        self._modified |= layer.modified
        if old is not None and previous is not None:
            kept = frozenset(path for path, _ in database.files(Package(record)))
            self._modified |= self._extractor.remove(previous, kept, purge=self._options.flag("purge"))
            database.drop_scripts(previous)
            old.installed = False
        package.record, package.installed = record, True
        database.installed[package.name] = package
        for kind, text in archive.scripts.items():
            database.scripts[f"{package.full_name}.{package.checksum}{kind}"] = (text, archive.info.builddate)
        if archive.info.triggers:
            database.triggers[package.checksum] = archive.info.triggers
        if previous is not None:
            self._extractor.remove_folders(previous, database.folders_in_use())
        self._new.append(package)
        if not self._scripts.run(package, kinds[1], arguments, archive.scripts.get(kinds[1])):
            self.errors += 1
        if archive.scripts.get(kinds[1]):
            self._extractor.owners.forget()

    def _keep(self, package: Package, old: Package | None) -> None:
        """Note a package without files: a virtual one."""
        if old is not None:
            old.installed = False
        package.installed = True
        self._database.installed[package.name] = package

    def _remove(self, package: Package) -> None:
        database = self._database
        script = database.script
        self._scripts.run(package, ".pre-deinstall", (package.version,), script(package, ".pre-deinstall"))
        self._modified |= self._extractor.remove(package, frozenset(), purge=self._options.flag("purge"))
        last = script(package, ".post-deinstall")
        del database.installed[package.name]
        package.installed = False
        database.drop_scripts(package)
        self._extractor.remove_folders(package, database.folders_in_use())
        self._scripts.run(package, ".post-deinstall", (package.version,), last)

    def _finish(self) -> int:
        if self._options.verbosity > 0:
            installed = self._database.installed.values()
            size = f"{sum(package.installed_size for package in installed) >> 20} MiB"
            count = f"{self.errors} error{'s' if self.errors > 1 else ''};"
            text = count if self.errors else "OK:"
            if self._options.verbosity > 1:
                files = sum(1 for package in installed for _ in self._database.files(package))
                print(f"{text} {len(installed)} packages, {len(self._database.folders_in_use()) + 1} dirs, {files} files, {size}")
            else:
                print(f"{text} {size} in {len(installed)} packages")
        return min(self.errors, 125)


def _failure(problem: Exception) -> str:
    return problem.message if isinstance(problem, FactoryError) else reason(problem)


def _header(package: Package, archive: Archive) -> str:
    """The record's lines before its files: the index's, and what only the package itself says."""
    lines = [line for line in package.record.split("\n") if line[0] not in "FRMaZrqf"]
    if archive.info.replaces:
        lines.append(f"r:{' '.join(archive.info.replaces)}")
    if archive.info.replaces_priority:
        lines.append(f"q:{archive.info.replaces_priority}")
    return "\n".join(lines)
