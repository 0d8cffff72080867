# SPDX-License-Identifier: Apache-2.0
"""A bundle: packages and their signed indexes for one host, a manifest that names them all, and our signature under it.

The manifest is lines of words, so that a shell script can check each whole line (`/usr/libexec/tower/bundle` on the host):

    tower-bundle 1
    host NAME                            whom it is for; no other host takes it
    serial N                             above that of the last bundle that the host used, so that none comes twice
    state SHA256                         of the world and database that the packages were chosen for
    space BYTES                          that the packages take when installed
    repository N TAG                     `-` for no tag
    add WORD                             for each word of `apk add`
    file SHA256 BYTES REPOSITORY NAME
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower import proc
from tower.apk import PROGRAM as PACKAGES
from tower.apk import Talk, clean, words_of
from tower.errors import AnswerError, PackageError, RemoteError
from tower.proc import Done
from tower.repository import HostState, parse_state
from tower.ssh import as_root
from tower.sshconf import USER_KEY, Host
from tower.view import View
from tower.wanted import record_wanted

if TYPE_CHECKING:
    from tower.ssh import Session

PROGRAM: Final = "/usr/libexec/tower/bundle"
NAMESPACE: Final = "tower-bundle"
_PIECE: Final = 8 << 20
"""Bytes that are sent at a time: what a broken connection loses at most."""
_SLOWEST: Final = 100_000
"""Bytes a second that a host takes at least."""
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
    """All that a host gets."""

    host: Host
    state: HostState
    names: tuple[str, ...]
    space: int
    files: tuple[File, ...]

    @property
    def manifest(self) -> bytes:
        """What is signed."""
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
    """The signature of the manifest by the key that logs in to the host, which knows no other."""
    argv = ("ssh-keygen", "-q", "-Y", "sign", "-f", host.file(USER_KEY), "-n", NAMESPACE)
    return proc.run(argv, stdin=manifest, timeout=20, hint="install openssh-keygen").stdout


def read_state(
    session: Session, say: Callable[[str], None], recorded: Path, sleep: Callable[[float], None] = time.sleep
) -> HostState:
    """What the host says of its packages; one that is installing others is waited for.

    What an interrupted run has left there is undone or, if it was done, noted in `recorded`.
    """
    name, end, told = session.host.name, time.monotonic() + _WAIT, False
    while True:
        done = session.run([PROGRAM, "state"], timeout=60, check=False, most=_MOST_STATE)
        if done.status == _UNSETTLED:
            _settle(session, say, recorded)
        elif done.status != _BUSY:
            return parse_state(_asked(session, done).stdout, name)
        elif not told:
            told = True
            say(f"{name}: goes on with an earlier installation; waiting for its end")
        if time.monotonic() > end:
            raise AnswerError(f"{name}: has been installing for {_WAIT / 60:.0f} min", hint=f"see: ssh {name} ps")
        if done.status == _BUSY:
            sleep(1)


def _settle(session: Session, say: Callable[[str], None], recorded: Path) -> None:
    """Put in order what an interrupted run has left. Raises PackageError if the host cannot."""
    name = session.host.name
    done = _asked(session, session.root([PACKAGES, "repair"], timeout=_WAIT, check=False))
    for line in done.stdout.decode(errors="replace").splitlines():
        who, _, text = line.partition(" ")
        word, _, rest = text.partition(" ")
        if (who, word) == ("tower", "installed"):
            words = words_of(rest, name)
            say(f"{name}: an earlier installation was finished without us: {' '.join(words)}")
            record_wanted(recorded, words)
            session.root([PACKAGES, "forget"], timeout=60)
        elif (who, word) == ("tower", "undone"):
            say(f"{name}: undone: {clean(rest.encode()[:300])}")


def send(session: Session, bundle: Bundle, progress: Callable[[int], object]) -> int:
    """Bring the bundle to its host, but for what is there already; how many bytes were sent. Raises PackageError."""
    manifest = bundle.manifest
    offered = manifest + sign(manifest, bundle.host)
    done = _asked(session, session.root([PROGRAM, "offer"], stdin=offered, timeout=120, check=False))
    missing = [_MISSING.fullmatch(line) for line in done.stdout.decode(errors="replace").splitlines()]
    here = {found[1]: int(found[2]) for found in missing if found is not None}
    sent = 0
    for file in dict.fromkeys(bundle.files):
        have = here.pop(file.digest, file.size)
        progress(min(have, file.size))
        if have < file.size:
            sent += _send_file(session, file, have, progress)
    return sent


def _send_file(session: Session, file: File, have: int, progress: Callable[[int], object]) -> int:
    start = have
    with file.path.open("rb") as stream:
        stream.seek(have)
        while have < file.size:
            piece = stream.read(min(_PIECE, file.size - have))
            words = [PROGRAM, "put", file.digest, str(have)]
            done = session.root(words, stdin=piece, timeout=60 + len(piece) / _SLOWEST, check=False)
            answer = _asked(session, done).stdout.strip()
            if not piece or answer != b"%d" % (have + len(piece)):
                raise PackageError(
                    f"{session.host.name}: took {answer[:20].decode(errors='replace')!r} bytes of {file.name}, "
                    f"expected {have + len(piece)}",
                    hint="type the same command again to go on",
                )
            have += len(piece)
            progress(len(piece))
    return have - start


@contextmanager
def installing(session: Session, view: View, installed: Callable[[tuple[str, ...]], object]) -> Iterator[Talk]:
    """The talk with the host's program, which has verified what was sent once more; see tower.apk."""
    name = session.host.name
    with session.popen(as_root([PROGRAM, "install"])) as child, view.amount(name) as bar:
        talk = Talk(name, child, session.alive, lambda _: None, bar, installed)
        talk.ask([])
        talk.say = view.say
        yield talk
        child.wait(60)


def _asked(session: Session, done: Done) -> Done:
    """What the host's program did, or the error that it tells of."""
    if done.status == 0:
        return done
    name = session.host.name
    said = (done.stderr or done.stdout).strip().splitlines()[-5:]
    shown = "\n  ".join(clean(line[:300]) for line in said)
    if done.status in _NO_PROGRAM:
        raise RemoteError(
            f"{name}: its system knows no bundles: {shown}",
            hint=f"upgrade it: tower upgrade {name}; or install through a tunnel: tower install --tunnel",
        )
    hints = {
        _NO_SPACE: f"make room: ssh {name} df -h; then type the same command again",
        _BUSY: "wait for it, then type the same command again",
        _CHANGED: "type the same command again: the packages are chosen anew",
    }
    raise PackageError(f"{name}: {shown}", hint=hints.get(done.status, "nothing of it was used; type the same command again"))
