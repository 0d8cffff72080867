# SPDX-License-Identifier: Apache-2.0
"""`doit verify:reproducible`: build everything twice from nothing, in different surroundings, and compare the bytes.

The two builds share the lock, the downloads, the signing key and the builder's image; everything else is made again.
They differ in the folder (and the length of its path), the order in which files were written, their times, umask, time
zone, home folder, and the clock. libfaketime sets the second build's clock 400 days and some hours ahead: in the
sandboxes the builder's own libfaketime, which is tried before the build; in the factory this machine's, if it has one.
The report says which clock could not be moved; that one differs by the time that the first build took.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base import proc
from pipeline.base.errors import StageError
from pipeline.base.paths import Paths, cache_home
from pipeline.base.progress import Screen
from pipeline.build.execution import shifted, time_in_sandbox
from pipeline.images.publish import ENDINGS, dist_folder
from pipeline.plan.nodes import Plan, is_folder
from pipeline.plan.planner import load_plan
from pipeline.release.difference import differences
from pipeline.store.artifact import Artifact

if TYPE_CHECKING:
    from pipeline.build.workplace import Workplace

AHEAD = "+34587432"
"""400 days, 7 hours, 37 minutes and 12 seconds: another date, hour and weekday, also in local time."""

_BUILD_SECONDS = 4 * 3600
_GIT_SECONDS = 60
_CLOCK_SECONDS = 600
_OLD = 981173106  # long before any file here was written
_TAIL = 30
_WITH_UMASK = "import os, sys; os.umask(int(sys.argv[1], 8)); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
# Python sleeps until an absolute time, which the libfaketime of Debian 12 gets wrong. Under it, we wait on a lock instead: in
# the factory and in the processes that it starts to convert packages. Python imports this by its name when it starts.
_SITE = """\
import threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds) and None
"""
_GENERATED = ("build", "dist", "builds", ".git", ".venv")
"""Folders of a checkout that nobody wrote by hand."""


@dataclass(slots=True)
class Comparison:
    """The findings of a comparison."""

    lines: list[str] = field(default_factory=list)
    compared: int = 0
    differing: int = 0

    def add(self, name: str, what: str, lines: Sequence[str]) -> None:
        """Note the result for one thing: `lines` say how it differs, `what` describes it if it does not."""
        self.compared += 1
        if lines:
            self.differing += 1
            self.lines.append(f"{name}: differs")
            self.lines.extend(f"  {line}" for line in lines)
        else:
            self.lines.append(f"{name}: identical ({what})")


def verify(place: Workplace) -> Comparison:
    """Build twice and compare; the copies are removed if they are equal, and kept for inspection if not."""
    root = place.paths.build / "verify"
    shutil.rmtree(root, ignore_errors=True)
    first, second = root / "a", root / "another-folder-with-a-much-longer-path" / "b"
    place.make_lock(again=False)
    place.fetch()
    place.driver.signing_key()
    files = sorted(checkout_files(place.paths.checkout))
    _copy(place, files, first, {})
    _copy(place, list(reversed(files)), second, {"times": _OLD})
    _build(place, first, umask="022", env={"TZ": "UTC"})
    home = root / "home"
    home.mkdir()
    inside, outside = _moved_inside(place, root), faketime_library()
    site = root / "python"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    _build(
        place,
        second,
        umask="077",
        env={
            "TZ": "Pacific/Kiritimati",
            "HOME": str(home),
            **({"LD_PRELOAD": str(outside), "PYTHONPATH": str(site), **shifted(AHEAD)} if outside else {}),
        },
        words=[f"clock={AHEAD}"] if inside else [],
    )
    report = compare(place.plan, first, second, scratch=root)
    for where, moved in (("stages", inside), ("factory", outside is not None)):
        report.lines.append(
            f"clock of the second build's {where}: {f'{AHEAD} s' if moved else 'not moved, because there is no libfaketime'}"
        )
    report.lines.append(f"{report.compared} compared, {report.differing} differ" + (f"; see {root}" if report.differing else ""))
    if not report.differing:
        shutil.rmtree(root, ignore_errors=True)
    return report


def faketime_library() -> Path | None:
    """Return the libfaketime of this machine, or None."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def _moved_inside(place: Workplace, root: Path) -> bool:
    """Tell whether the stages' clock can be moved. Raises StageError if the channel says so, but it does not move."""
    if not place.plan.channel.faketime:
        return False
    scratch = root / "clock"
    scratch.mkdir()
    wanted, found = time.time() + int(AHEAD), time_in_sandbox(place, AHEAD, scratch)
    if abs(found - wanted) > _CLOCK_SECONDS:
        raise StageError(
            f"verify:reproducible: the clock in the builder cannot be moved: expected {wanted:.0f}, found {found}",
            hint=f"{place.plan.channel.path.name}: `faketime` names a libfaketime that the builder has",
        )
    return True


# --- two builds ---------------------------------------------------------------------------------------------


def checkout_files(checkout: Path) -> Iterator[str]:
    """Yield the files of the checkout that git knows; without git, all files that were not generated."""
    if (checkout / ".git").exists():
        argv = ("git", "-C", checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in proc.run(argv, timeout=_GIT_SECONDS).stdout.decode().split("\0"):
            if name and os.path.lexists(checkout / name):
                yield name
        return
    for folder, names, files in os.walk(checkout):
        generated = _GENERATED if Path(folder) == checkout else ()
        names[:] = [name for name in names if name not in (*generated, "__pycache__")]
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        yield from ((Path(folder) / name).relative_to(checkout).as_posix() for name in [*files, *links])


def _copy(place: Workplace, files: Sequence[str], folder: Path, how: Mapping[str, int]) -> None:
    """Copy the checkout, with the channel's lock and keys, and with a dist/ of its own."""
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place.paths.checkout / name, target, follow_symlinks=False)
        os.utime(target, (how["times"], how["times"]) if "times" in how else None, follow_symlinks=False)
    (folder / "dist").mkdir()
    name = place.plan.channel.name
    ours, theirs = place.paths.channel(name), Paths(folder).channel(name)
    theirs.mkdir(parents=True)
    shutil.copy2(place.lock_path, theirs / place.lock_path.name)
    if (ours / "keys").is_dir():
        shutil.copytree(ours / "keys", theirs / "keys")


def _build(place: Workplace, folder: Path, *, umask: str, env: Mapping[str, str], words: Sequence[str] = ()) -> None:
    """Build all images in a copy, in a process of its own. Raises FactoryError."""
    place.progress.say(f"verify:reproducible: building in {folder}")
    log = folder.with_suffix(".log")
    argv = (
        sys.executable,
        "-c",
        _WITH_UMASK,
        umask,
        "-m",
        "doit",
        *words,
        *place.plan.settings.words,
    )
    with log.open("wb") as stream:
        done = proc.run(
            argv, timeout=_BUILD_SECONDS, cwd=folder, env={"XDG_CACHE_HOME": str(cache_home()), **env}, log=stream, check=False
        )
    if done.status:
        last = log.read_text(errors="replace").splitlines()[-_TAIL:]
        raise StageError("\n  ".join([f"verify:reproducible: the build in {folder} failed", *last]), hint=f"whole log: {log}")


# --- comparison ---------------------------------------------------------------------------------------------


def compare(plan: Plan, first: Path, second: Path, *, scratch: Path) -> Comparison:
    """Compare every artifact and every finished file of two built copies of a checkout."""
    from pipeline.build.workplace import Workplace

    report = Comparison()
    one, two = (
        Workplace(load_plan(Paths(folder), plan.settings), Paths(folder), Screen(quiet=True)) for folder in (first, second)
    )
    for name, node in plan.nodes.items():
        if is_folder(node):
            continue
        mine, theirs = one.find(one.plan.nodes[name]), two.find(two.plan.nodes[name])
        if mine is None or theirs is None:
            report.add(name, "", [f"is not in the store of the {'first' if mine is None else 'second'} build"])
            continue
        lines = [] if mine.key == theirs.key else [f"key: {mine.key[:12]} / {theirs.key[:12]}"]
        lines.extend(_differing_outputs(mine, theirs, scratch))
        report.add(name, f"{len(mine.outputs)} files, {mine.content[:12]}", lines)
    for image in plan.images:
        for ending in ENDINGS:
            name = f"{image.output}{ending}"
            mine_there, theirs_there = (dist_folder(Paths(folder)) / name for folder in (first, second))
            missing = [f"{place}: missing" for place in (mine_there, theirs_there) if not place.is_file()]
            report.add(name, "finished file", missing or differences(mine_there, theirs_there, name, scratch=scratch))
    one.store.close()
    two.store.close()
    return report


def _differing_outputs(mine: Artifact, theirs: Artifact, scratch: Path) -> Iterator[str]:
    for name in sorted({*mine.outputs, *theirs.outputs}):
        if name not in mine.outputs or name not in theirs.outputs:
            yield f"{name}: is only in the {'first' if name in mine.outputs else 'second'} build"
        elif mine.outputs[name] != theirs.outputs[name]:
            yield from differences(mine.file(name), theirs.file(name), name, scratch=scratch)
