# SPDX-License-Identifier: Apache-2.0
"""Runs the scripts and triggers of packages inside their root."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import FactoryError
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.errors import error
from pipeline.lab.apktool.packages import Package

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT = 3600.0


class Scripts:
    """The scripts of one run; with `--no-scripts` none of them is run."""

    def __init__(self, database: Database, *, enabled: bool, verbosity: int) -> None:
        self._database = database
        self._enabled = enabled
        self._verbosity = verbosity

    def run(self, package: Package, kind: str, arguments: Sequence[str], text: bytes | None) -> bool:
        """Run one script; True when there is none, or it succeeds."""
        if text is None or not self._enabled:
            return True
        name = f"{package.full_name}{kind}"
        if self._verbosity > 0:
            print(f"Executing {name}", flush=True)
        fs = self._database.fs
        # Without lib (a root still to get its first package) the folder must not be in the way of a link called so.
        home = "lib/apk/exec" if fs.place("lib").exists() else "usr/lib/apk/exec"
        place = fs.make_folder(home) / name
        try:
            with place.open("wb") as out:
                os.fchmod(out.fileno(), 0o755)
                out.write(text)
            return self._execute(f"{home}/{name}", name, arguments)
        finally:
            with suppress(FileNotFoundError):
                place.unlink()

    def _execute(self, path: str, name: str, arguments: Sequence[str]) -> bool:
        from pipeline.proc import run

        root = self._database.fs.path
        argv = (f"/{path}", *arguments) if root == Path("/") else ("chroot", str(root), f"/{path}", *arguments)
        try:
            done = run(argv, timeout=_TIMEOUT, env={"PATH": _PATH}, cwd=root, stdout=sys.stdout.buffer, log=None, check=False)
        except FactoryError as problem:
            error(f"{name}: {problem.message}")
            return False
        sys.stderr.buffer.write(done.stderr)
        sys.stderr.flush()
        if done.status != 0:
            error(f"{name}: script exited with error {done.status}")
        return done.status == 0

    def run_triggers(self, modified: Iterable[str], new: Iterable[Package]) -> int:
        """Run the triggers that watch a modified folder (all folders, for a new package); returns how many failed."""
        if not self._enabled:
            return 0
        changed = sorted(set(modified))
        fresh = {package.name for package in new}
        failed = 0
        for package in sorted(self._database.installed.values(), key=lambda package: package.name):
            globs = self._database.triggers.get(package.checksum, ())
            if not globs:
                continue
            watched = changed
            if package.name in fresh:
                watched = sorted(self._database.folders_in_use())
            matching = [f"/{folder}" for folder in watched if any(fnmatchcase(f"/{folder}", glob.lstrip("+")) for glob in globs)]
            if matching and not self.run(package, ".trigger", matching, self._database.script(package, ".trigger")):
                failed += 1
        return failed

    def run_hooks(self, stage: str) -> bool:
        """Run what lies in etc/apk/commit_hooks.d, with `pre-commit` or `post-commit`."""
        if not self._enabled:
            return True
        folder = self._database.fs.folder("etc/apk/commit_hooks.d")
        hooks = sorted(path.name for path in folder.iterdir() if os.access(path, os.X_OK)) if folder.is_dir() else []
        for hook in hooks:
            if self._verbosity > 1:
                print(f"Executing: commit_hooks.d/{hook} {stage}", flush=True)
            if not self._execute(f"etc/apk/commit_hooks.d/{hook}", hook, (stage,)):
                return False
        return True
