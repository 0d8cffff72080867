# SPDX-License-Identifier: Apache-2.0
"""A bundle: packages and their signed indexes for one host, a manifest that names them all, and our signature of it.

The manifest is lines of words, so that a shell script can check each whole line (`/usr/libexec/tower/bundle` on the host):

    tower-bundle 1
    host NAME                            the host that it is for; others refuse it
    serial N                             above that of the last bundle that the host used, so that none is used twice
    state SHA256                         of the world and database that the packages were chosen for
    space BYTES                          that the packages take when installed
    repository N TAG                     `-` for no tag
    add WORD                             for each word of `apk add`
    file SHA256 BYTES REPOSITORY NAME
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import GarbageError, HangsError, LostError, PackageError, RemoteError
from tower.base.proc import Done
from tower.base.ready import readable, writable
from tower.base.regular import open_regular
from tower.base.view import View
from tower.hosts.registry import USER_KEY, Host
from tower.install.apk import Talk, clean
from tower.install.repair import repair
from tower.install.repository import HostState, parse_state
from tower.ssh.sessions import as_root

if TYPE_CHECKING:
    from tower.ssh.sessions import Session

PROGRAM: Final = "/usr/libexec/tower/bundle"
NAMESPACE: Final = "tower-bundle"
_PIECE: Final = 256 << 10
_SYNC: Final = 300.0
"""Seconds that a host may take to write the bundle to its disk: memory cards are slow."""
_SILENCE: Final = 120.0
_MOST_MISSING: Final = 16 << 20
_NO_SPACE, _BUSY, _CHANGED, _UNSETTLED, _NO_PROGRAM = 73, 75, 76, 77, (126, 127)
_WAIT: Final = 1800.0
"""Seconds that another installation may take."""
_MOST_STATE: Final = 128 << 20
_MISSING: Final = re.compile(r"([0-9a-f]{64}) ([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a bundle."""

    path: Path
    digest: str
    size: int
    repository: int
    name: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything that a host gets."""

    host: Host
    state: HostState
    names: tuple[str, ...]
    space: int
    files: tuple[File, ...]

    @property
    def manifest(self) -> bytes:
        """Return the manifest, which is signed."""
        rows = [
            "tower-bundle 1",
            f"host {self.host.name}",
            f"serial {self.state.serial + 1}",
            f"state {self.state.digest}",
            f"space {self.space}",
            *(f"repository {number} {one.tag or '-'}" for number, one in enumerate(self.state.repositories)),
            *(f"add {name}" for name in self.names),
            *(f"file {one.digest} {one.size} {one.repository} {one.name}" for one in self.files),
        ]
        return "".join(f"{row}\n" for row in rows).encode()


def sign(manifest: bytes, host: Host) -> bytes:
    """Sign the manifest with the key that logs in to the host, the only key that the host knows."""
    argv = ("ssh-keygen", "-q", "-Y", "sign", "-f", host.file(USER_KEY), "-n", NAMESPACE)
    return proc.run(argv, stdin=manifest, timeout=20, missing="install openssh-keygen").stdout


def read_state(session: Session, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> HostState:
    """Return the host's description of its packages; wait for another installation there, and repair an interrupted one.

    Raises AnswerErrors, and PackageError if it cannot be repaired.
    """
    name, end, told, repaired = session.host.name, time.monotonic() + _WAIT, False, False
    while True:
        done = session.run([PROGRAM, "state"], timeout=60, check=False, most=_MOST_STATE)
        if done.status == _UNSETTLED and not repaired:
            repair(session, say)
            repaired = True
        elif done.status == _BUSY and time.monotonic() < end:
            if not told:
                say(f"{name}: is finishing an earlier installation; waiting for its end")
            told, repaired = True, False
            sleep(1)
        else:
            return parse_state(_asked(session, done).stdout, name)


def send(session: Session, bundle: Bundle, progress: Callable[[int], object]) -> int:
    """Send the parts of a bundle that the host lacks; return the number of bytes sent. Raises PackageError."""
    manifest = bundle.manifest
    manifest += sign(manifest, bundle.host)
    sent = 0
    with session.popen(as_root([PROGRAM, "receive"])) as child:
        assert child.stdin is not None  # noqa: S101  (they are pipes)
        assert child.stdout is not None  # noqa: S101
        assert child.stderr is not None  # noqa: S101
        os.set_blocking(child.stdin.fileno(), False)
        try:
            _write(child.stdin, b"%d\n%s" % (len(manifest), manifest))
            missing = _missing(child.stdout, bundle)
            files = {file.digest: file for file in bundle.files}
            progress(sum(file.size for file in files.values() if file.digest not in missing) + sum(missing.values()))
            for digest, have in missing.items():
                sent += _send_file(child.stdin, files[digest], have, progress)
            child.stdin.close()
        except BrokenPipeError:
            pass  # the program ended, and prints why
        errors = _rest(child.stderr, session.host.name)
        status = proc.ended(child, 20)
    if status == 255 and not session.alive():
        raise LostError(f"{session.host.name}: the connection broke", hint="run the same command again to continue")
    _asked(session, Done(status, b"", errors))
    return sent


def _missing(stream: IO[bytes], bundle: Bundle) -> dict[str, int]:
    """Return the files that the host lacks, with the bytes that it has of each; in the order in which it takes them."""
    name, sizes = bundle.host.name, {file.digest: file.size for file in bundle.files}
    found: dict[str, int] = {}
    said = b""
    end = time.monotonic() + _SYNC
    while not (said == b".\n" or said.endswith(b"\n.\n")):
        if not readable([stream], max(0.0, end - time.monotonic())):
            raise HangsError(f"{name}: does not list the files that it lacks", hint=f"see what it does: ssh {name} top")
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            raise BrokenPipeError
        said += data
        if len(said) > _MOST_MISSING:
            raise GarbageError(f"{name}: more than {_MOST_MISSING} bytes of missing files", hint="is it a host of TowerOS?")
    for line in said.decode(errors="replace").splitlines()[:-1]:
        one = _MISSING.fullmatch(line)
        if one is None or int(one[2]) > sizes.get(one[1], -1):
            raise GarbageError(f"{name}: sent {line[:60]!r}, expected a file that it lacks", hint="is it a host of TowerOS?")
        found[one[1]] = int(one[2])
    return found


def _send_file(out: IO[bytes], file: File, have: int, progress: Callable[[int], object]) -> int:
    sent = 0
    with open_regular(file.path) as stream:
        stream.seek(have)
        while piece := stream.read(_PIECE):
            _write(out, piece)
            sent += len(piece)
            progress(len(piece))
    return sent


def _write(out: IO[bytes], data: bytes) -> None:
    """Write all data into an unbuffered pipe. Raises BrokenPipeError if nobody reads it, or too slowly."""
    left = memoryview(data)
    while left:
        if not writable([out], _SILENCE):
            raise BrokenPipeError
        left = left[os.write(out.fileno(), left[: 1 << 16]) :]


def _rest(stream: IO[bytes], name: str) -> bytes:
    """Return the rest of a program's output, once it has ended. Raises HangsError."""
    said, end = b"", time.monotonic() + _SYNC
    while (left := end - time.monotonic()) > 0 and readable([stream], left):
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            return said
        said = (said + data)[-(1 << 16) :]  # its last lines say why it ended
    raise HangsError(f"{name}: does not finish writing the bundle to its disk", hint="run the same command again to continue")


@contextmanager
def installing(session: Session, view: View, installed: Callable[[tuple[str, ...]], object]) -> Iterator[Talk]:
    """Yield the protocol with the host's program, which has verified the bundle once more; see tower.install.apk."""
    name = session.host.name
    with session.popen(as_root([PROGRAM, "install"])) as child, view.amount(name) as bar:
        talk = Talk(name, child, session.alive, lambda _: None, bar, installed)
        talk.ask([])
        talk.say = view.say
        yield talk
        proc.ended(child, 60)


def _asked(session: Session, done: Done) -> Done:
    """Return the result of the host's program, or raise the error that it reports."""
    if done.status == 0:
        return done
    name = session.host.name
    said = (done.stderr or done.stdout).strip().splitlines()[-5:]
    shown = "\n  ".join(clean(line[:300]) for line in said)
    if done.status in _NO_PROGRAM:
        raise RemoteError(
            f"{name}: its system does not support bundles: {shown}",
            hint=f"upgrade it: tower upgrade {name}; or install through a tunnel: tower install --tunnel",
        )
    hints = {
        _NO_SPACE: f"free some space: ssh {name} df -h; then run the same command again",
        _BUSY: "wait for it, then run the same command again",
        _UNSETTLED: f"look: ssh {name} doas /usr/libexec/tower/packages repair",
        _CHANGED: "run the same command again: the packages are chosen again",
    }
    raise PackageError(f"{name}: {shown}", hint=hints.get(done.status, "the bundle was not used; run the same command again"))
