# SPDX-License-Identifier: Apache-2.0
"""The note of a run that found nothing to do: while nothing that it looked at changes, the same command has the same answer.

Such a run takes most of its time to load the task graph. So it notes what it printed, and the digest of everything that
the answer depends on: command line, environment, user and Python; every file of the checkout; and every file and folder
elsewhere, also in the store and among the finished images, that the run opened or listed (Python itself tells which, by an
audit hook). Files count by what the file system says about them; any change of a file sets its time of change, which no
program can set back.

A run leaves no note if it did anything else than look: ran an action, said something, started a program, opened a connection; or
if something that it looked at was changed shortly before or meanwhile, since times of files are coarse.

This module is loaded at each start, and imports little.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from hashlib import sha256

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base.streams import silence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

_NOTE = os.path.join("build", "nothing-to-do.json")  # noqa: PTH118 (pathlib is slow here and below)
_SETTLED_NS = 2_000_000_000
"""A file must be older than this when a run begins: the coarsest times of a usual file system are 2 s apart."""
_SHELLS_OWN = frozenset({"_", "OLDPWD", "SHLVL"})
"""Variables that differ from one shell to the next and that nothing reads."""
_LEFT_OUT = frozenset({"build", "builds", "dist"})
"""Folders of the checkout, beside hidden ones, that the factory itself fills; what a run reads there is noted by itself."""
_OPENED, _LISTED = frozenset({"open"}), frozenset({"os.listdir", "os.scandir"})
_ACTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "socket.connect"})


class UnsettledError(Exception):
    """Something that the answer depends on is missing, or changes at this time."""


class Watch:
    """What a run looks at. `root` is the checkout, `words` the command line."""

    def __init__(self, root: str, words: Sequence[str]) -> None:
        self.root = root
        self.words = list(words)
        self.began = time.time_ns()
        self.going = True
        self._opened: set[str] = set()
        self._listed: set[str] = set()
        self._answer: tuple[list[str], int] | None = None

    def heed(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take one of Python's audit events."""
        if not self.going:
            return
        if event in _OPENED:
            self._look(self._opened, arguments[0])
        elif event in _LISTED:
            # A folder that is open already has no name here.
            if isinstance(arguments[0], int):
                self.going = False
            self._look(self._listed, "." if arguments[0] is None else arguments[0])
        elif event in _ACTS:
            self.going = False

    def _look(self, seen: set[str], path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            seen.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100

    def stop(self) -> None:
        """Leave no note: the run does something."""
        self.going = False

    def answered(self, lines: Sequence[str], stages: int) -> None:
        """Take the answer: the lines of the tasks, and the number of stages that are there already."""
        self._answer = list(lines), stages

    def keep(self) -> None:
        """Write the note, if the run did nothing but look and found nothing to do."""
        if not self.going or self._answer is None:
            return
        self.going = False
        lines, stages = self._answer
        opened, listed = _of_interest(self._opened), _of_interest(self._listed)
        try:
            state = _state(self.root, self.words, opened, listed, before=self.began - _SETTLED_NS)
        except (OSError, UnsettledError):
            return
        import json
        from contextlib import suppress
        from pathlib import Path

        from pipeline.base.errors import StoreError
        from pipeline.base.files import write_file

        note = {"state": state, "opened": opened, "listed": listed, "lines": lines, "stages": stages}
        with suppress(StoreError, OSError):  # the answer was given; the next run looks again
            write_file(Path(self.root, _NOTE), json.dumps(note).encode())


_watches: list[Watch] = []
"""This process's, if it has one; audit hooks cannot be removed."""


def watch(words: Sequence[str]) -> Watch | None:
    """Return the watch of this process; None if its command line is of no interest or another checkout's code runs."""
    root = os.getcwd()  # noqa: PTH109
    # Options change what doit does; JSON says how long each task took.
    if any(word.startswith(("-", "json=")) for word in words) or not __file__.startswith(os.path.join(root, "")):  # noqa: PTH118
        return None
    _watches[:] = [Watch(root, words)]
    return _watches[0]


def begin(found: Watch) -> None:
    """Note from now on what this process opens and lists."""
    sys.addaudithook(found.heed)


def acting() -> None:
    """Leave no note of this run: it does something, or says something."""
    for found in _watches:
        found.stop()


def answered(lines: Sequence[str], stages: int) -> None:
    """Take the answer of a run that found nothing to do."""
    for found in _watches:
        found.answered(lines, stages)


def nothing_to_do(stages: int, seconds: float) -> str:
    """Return the last line of a run with nothing to do."""
    return f"nothing to do: {stages} stages cached ({seconds:.1f} s)"


def answer_again(found: Watch, seconds: Callable[[], float]) -> bool:
    """Give the answer of an earlier run, if nothing has changed since; tell whether it was given. Raises OSError of stdout.

    `found` is this run's watch; `seconds` says how long it has taken.
    """
    try:
        note = parse_json(read_regular(os.path.join(found.root, _NOTE)))  # noqa: PTH118
        opened, listed, lines, stages = note["opened"], note["listed"], note["lines"], note["stages"]
        if _state(found.root, found.words, opened, listed) != note["state"]:
            return False
        texts = [*map(str, lines), *([nothing_to_do(int(stages), seconds())] if stages else [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnsettledError):
        return False
    _use(opened)
    try:
        sys.stdout.write("".join(f"{text}\n" for text in texts))
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)  # as for a build, whose reader may leave
    return True


def _use(opened: Iterable[str]) -> None:
    """Give the artifacts the time of their last use, as looking them up does."""
    for path in opened:
        folder, _, name = path.rpartition("/")
        if name == "record.json":
            try:
                os.utime(folder)
            except OSError:  # a read-only store still answers
                return


def _of_interest(paths: Iterable[str]) -> list[str]:
    """Return the paths without Python's own and those of the kernel, sorted."""
    others = tuple(os.path.join(place, "") for place in {sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev"})  # noqa: PTH118
    return sorted(path for path in paths if not f"{path}/".startswith(others) and not path.endswith(".pyc"))


def _state(root: str, words: Sequence[str], opened: Iterable[str], listed: Iterable[str], *, before: int = 0) -> str:
    """Return the digest of everything that the answer depends on.

    Raises UnsettledError if something is missing, or with `before` (nanoseconds since 1970) is younger, and OSError.
    """
    digest = sha256()
    for part in _surroundings(root, words):
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    for path, info in _files(root, opened, listed):
        is_folder = stat.S_ISDIR(info.st_mode)
        if before and not is_folder and max(info.st_mtime_ns, info.st_ctime_ns) >= before:
            raise UnsettledError(path)
        row = (info.st_dev, info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        # What is in a folder is listed; its times change with byte code, too.
        digest.update(f"{path}\0{row[:3] if is_folder else row}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _surroundings(root: str, words: Sequence[str]) -> Iterator[str]:
    yield from (root, str(len(words)), *words)
    yield from (sys.version, sys.executable, str(sys.flags), str(os.getresuid()), str(os.getresgid()), str(os.getgroups()))
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name not in _SHELLS_OWN)


def _files(root: str, opened: Iterable[str], listed: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    yield from _below(root, top=True, seen=set())
    for path in opened:
        try:
            yield path, os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            raise UnsettledError(path) from None
    for folder in listed:
        yield folder, os.stat(folder)  # noqa: PTH116
        for entry in _sorted(folder):
            yield entry.path, entry.stat(follow_symlinks=False)


def _below(folder: str, *, top: bool, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder of the checkout, also what a link there leads to."""
    for entry in _sorted(folder):
        if entry.name == "__pycache__" or entry.name.endswith(".pyc"):
            continue
        own = entry.stat(follow_symlinks=False)
        yield entry.path, own
        if top and (entry.name in _LEFT_OUT or entry.name.startswith(".")):
            continue  # that it is there matters
        try:
            info = entry.stat() if entry.is_symlink() else own
        except OSError:  # a link that leads nowhere
            continue
        if info is not own:
            yield f"{entry.path}/", info
        if stat.S_ISDIR(info.st_mode) and (info.st_dev, info.st_ino) not in seen:
            seen.add((info.st_dev, info.st_ino))
            yield from _below(entry.path, top=False, seen=seen)


def _sorted(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
