# SPDX-License-Identifier: Apache-2.0
"""What the commands work on: the root, the repositories and all known packages of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.apk.pkginfo import Dependency
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package, Universe
from pipeline.lab.apktool.repository import Repositories


class Session:
    """Opened once per run; `installed=False` leaves out what the root holds, as `fetch` and `index` want it."""

    def __init__(
        self, options: Options, *, write: bool = False, installed: bool = True, repositories: bool = True, refresh: bool = False
    ) -> None:
        self.options = options
        root = Path(options.value("root", "/")).absolute()
        if installed:
            self.database = Database.open(root, initdb=options.flag("initdb"), arch=options.value("arch"))
            if self.database.initdb and not options.flag("simulate"):
                self.database.prepare()
        else:
            self.database = Database(root, arch=options.value("arch"))
        if write and not options.flag("simulate"):
            self.database.lock(float(options.value("wait", "0")))
        self.universe = Universe()
        self.repositories = Repositories(self.database, options)
        if repositories and options.value("from") != "installed":
            self.repositories.load(self.universe, refresh=refresh)
        if installed and options.value("from") not in ("repositories", "none"):
            self.database.load(self.universe)

    def selectable(self, package: Package) -> bool:
        """Whether a package can be had: it is installed, or its file is within reach."""
        if package.installed or package.file is not None or package.is_virtual:
            return True
        if not self.options.flag("no-network"):
            return bool(package.repositories)
        return self.repositories.local_path(package) is not None or self.repositories.packages_cached is not None

    @property
    def masked(self) -> str:
        """Why packages may not be selectable, for messages."""
        return "--no-network" if self.options.flag("no-network") else ""

    def say(self, text: str, verbosity: int = 1) -> None:
        """Print a line of information unless --quiet."""
        if self.options.verbosity >= verbosity:
            print(text, flush=True)

    def find(self, patterns: Sequence[str]) -> list[str]:
        """Names of packages that match shell patterns; a plain name stands for itself."""
        from fnmatch import fnmatchcase

        found: list[str] = []
        for pattern in patterns:
            if any(char in pattern for char in "*?["):
                found += [name for name in self.universe.names() if fnmatchcase(name, pattern)]
            else:
                found.append(pattern)
        return found

    def providers(self, wanted: Dependency) -> list[Package]:
        """All packages that stand for a dependency."""
        return [package for package, _ in self.universe.providers(wanted.name) if package.provides(wanted)]
