# SPDX-License-Identifier: Apache-2.0
"""What a new machine does not have, the tests do not see: HOME, /root and /tmp are empty folders for the whole run.

The run moves into a mount namespace of its own, and lays folders of build/ over those. Shown again are only what the tests
are given on purpose: the checkout with the reference data beside it, the Python that runs them, the product's cache of
downloads, and where pip finds its index. Only root can do this.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_NEW_MOUNTS: Final = 0x20000  # CLONE_NEWNS
_BIND: Final = 0x1000  # MS_BIND
_ALL_PRIVATE: Final = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_BOUND_WITH_ALL: Final = _BIND | 0x4000
_KEPT: Final = 2
"""So many runs can be looked into when they are over."""
_HOME_FILES: Final = (".config/pip", ".pip")


def hide(checkout: Path) -> str:
    """Hide what a new machine does not have from this process and all that it starts; what was done, in a line."""
    if os.geteuid() != 0:
        return "not root: tests see this user's HOME and this machine's /tmp"
    home = Path.home()
    hidden = [place for place in sorted({home, Path("/root"), Path("/tmp")}) if place.is_dir()]
    shown = [place for place in _shown(checkout, home) if any(place.is_relative_to(one) for one in hidden)]
    if impossible := [str(one) for one in hidden if one in shown or one == Path("/")]:
        return f"not hidden, since the tests are there: {', '.join(impossible)}"
    folder = _new_folder(checkout / "build" / "newmachine")
    _libc("unshare", _NEW_MOUNTS)
    _mount("none", "/", _ALL_PRIVATE)
    # Held open: their paths lead elsewhere as soon as something lies over them.
    held = {place: os.open(place, os.O_PATH | os.O_CLOEXEC) for place in shown}
    for place in hidden:
        own = folder / place.relative_to("/")
        own.mkdir(parents=True)
        shutil.copystat(place, own)
        _mount(str(own), str(place), _BIND)
    for place, descriptor in held.items():
        if not place.exists():
            _lay(place, f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
    os.chdir(checkout)
    os.environ["PATH"] = _path(hidden)
    return f"hidden: {', '.join(map(str, hidden))} (instead: {folder})"


def _shown(checkout: Path, home: Path) -> Iterator[Path]:
    """Folders and files that tests are given, outermost first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "tower"
    cache.mkdir(parents=True, exist_ok=True)
    places = {checkout, checkout.parent / "shared", Path(sys.prefix), Path(sys.base_prefix), cache}
    places |= {home / name for name in _HOME_FILES}
    yield from sorted(place.resolve() for place in places if place.exists())


def _path(hidden: Sequence[Path]) -> str:
    """PATH without the folders that are gone; the Python that runs the tests is found even so."""
    folders = os.environ.get("PATH", os.defpath).split(":")
    there = [folder for folder in folders if not any(Path(folder).is_relative_to(place) for place in hidden)]
    own = f"{sys.base_prefix}/bin"
    return ":".join([own, *there] if own not in there and len(there) < len(folders) else there)


def _lay(place: Path, source: str) -> None:
    """Show what a descriptor holds at its old place."""
    if Path(source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, str(place), _BOUND_WITH_ALL)


def _new_folder(base: Path) -> Path:
    """A folder for this run; those of runs that are over go, but for the last ones."""
    base.mkdir(parents=True, exist_ok=True)
    old = sorted((path for path in base.iterdir() if not _runs(path.name)), key=lambda path: path.stat().st_mtime)
    for path in old[: -_KEPT or None]:
        shutil.rmtree(path, ignore_errors=True)
    folder = base / str(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _runs(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except ValueError:
        return False
    except ProcessLookupError:
        return False
    return True


def _mount(source: str, target: str, flags: int) -> None:
    _libc("mount", source.encode(), target.encode(), None, flags, None)


def _libc(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def default_signals() -> None:
    """Let programs that tests start have default dispositions of signals, whatever this process was started with.

    One that is ignored stays ignored in all programs that are started: what a shell starts in the background ignores SIGINT,
    and a test that sends it would wait for ever. Of a handler, programs inherit nothing; this one does nothing.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
