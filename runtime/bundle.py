# SPDX-License-Identifier: Apache-2.0
"""A bundle: packages and their signed indexes for one host, a manifest that names them all, and our signature under it.

The manifest is lines of words, so that a shell script can check each whole line (`/usr/libexec/tower/bundle` on the host):

    tower-bundle 1
    host NAME                            whom it is for; no other host takes it
    serial N                             above that of the last bundle that the host used, so that none comes twice
    state SHA256                         of the world and database that the packages were chosen for
    plan SHA256                          of the steps that the host's apk must choose, too
    space BYTES                          that the packages take when installed
    repository N TAG                     `-` for no tag
    add WORD                             for each word of `apk add`
    file SHA256 BYTES REPOSITORY NAME
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower import proc
from tower.errors import AnswerError, HangsError, LostError, PackageError, RemoteError, TowerError
from tower.proc import Done
from tower.repository import HostState, parse_state
from tower.ssh import as_root
from tower.sshconf import USER_KEY, Host

if TYPE_CHECKING:
    from tower.ssh import Session

PROGRAM: Final = "/usr/libexec/tower/bundle"
NAMESPACE: Final = "tower-bundle"
_PIECE: Final = 8 << 20
"""Bytes that are sent at a time: what a broken connection loses at most."""
_SLOWEST: Final = 100_000
"""Bytes a second that a host takes at least."""
_APK_FAILED, _NO_SPACE, _BUSY, _CHANGED, _NO_PROGRAM = 69, 73, 75, 76, (126, 127)
_WAIT: Final = 1800.0
"""Seconds that another installation may take."""
_MOST_STATE: Final = 128 << 20
_MISSING: Final = re.compile(r"([0-9a-f]{64}) ([0-9]{1,12})")


class BusyError(TowerError):
    """The host is receiving or installing a bundle."""


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
    plan: str
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
            f"plan {self.plan}",
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


def read_state(session: Session, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> HostState:
    """What the host says of its packages; one that is installing others is waited for."""
    name, end, told = session.host.name, time.monotonic() + _WAIT, False
    while True:
        try:
            done = _asked(session, session.run([PROGRAM, "state"], timeout=60, check=False, most=_MOST_STATE))
        except BusyError as error:
            if time.monotonic() > end:
                raise AnswerError(f"{name}: has been installing for {_WAIT / 60:.0f} min", hint=f"see: ssh {name} ps") from error
            if not told:
                say(f"{name}: goes on with an earlier installation; waiting for its end")
            told = True
            sleep(1)
        else:
            return parse_state(done.stdout, name)


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


def install(session: Session, line: Callable[[str], None]) -> None:
    """Have the host install what was sent; `line` is told what apk says. Raises PackageError, LostError."""
    name = session.host.name
    with session.popen(as_root([PROGRAM, "install"])) as child:
        assert child.stdin is not None  # noqa: S101  (they are pipes)
        assert child.stdout is not None  # noqa: S101
        assert child.stderr is not None  # noqa: S101
        child.stdin.close()
        said = list(_lines(child.stdout, name, line))
        errors = child.stderr.read(64 << 10)
        status = child.wait(60)
    if status == 255 and not session.alive():
        raise LostError(
            f"{name}: the connection broke while it installed", hint="the host goes on by itself; type the same command again"
        )
    wrong = [text for text in said if text.startswith(("ERROR", "WARNING"))]
    _asked(session, Done(status, b"", errors), wrong)


def _lines(stream: object, name: str, line: Callable[[str], None]) -> Sequence[str]:
    import io
    import select

    assert isinstance(stream, io.RawIOBase)  # noqa: S101  (unbuffered)
    said: list[str] = []
    rest = b""
    while True:
        if not select.select([stream], [], [], _WAIT)[0]:
            raise HangsError(f"{name}: apk has said nothing for {_WAIT / 60:.0f} min", hint=f"see: ssh {name} ps")
        data = stream.read(4096)
        *whole, rest = (rest + (data or b"")).split(b"\n")
        for one in [*whole, *([rest] if not data and rest else [])]:
            text = "".join(char if char.isprintable() else "?" for char in one.decode(errors="replace")[:300])
            said = [*said[-500:], text]
            line(text)
        if not data or len(rest) > 1 << 16:
            return said


def _asked(session: Session, done: Done, said: Sequence[str] = ()) -> Done:
    """What the host's program did, or the error that it tells of."""
    if done.status == 0:
        return done
    name = session.host.name
    lines = [*said[:10], *done.stderr.decode(errors="replace").strip().splitlines()[-5:]]
    shown = "\n  ".join("".join(char if char.isprintable() else "?" for char in text[:300]) for text in lines)
    if done.status == _BUSY:
        raise BusyError(f"{name}: {shown}", hint="wait for it, then type the same command again")
    if done.status in _NO_PROGRAM:
        raise RemoteError(
            f"{name}: its system knows no bundles: {shown}",
            hint=f"upgrade it: tower upgrade {name}; or install through a tunnel: tower install --tunnel",
        )
    hints = {
        _APK_FAILED: f"what apk did is not undone; look: ssh {name} apk audit, df -h; then type the same command again",
        _NO_SPACE: f"make room: ssh {name} df -h; then type the same command again",
        _CHANGED: "type the same command again: the packages are chosen anew",
    }
    raise PackageError(f"{name}: {shown}", hint=hints.get(done.status, "nothing of it was used; type the same command again"))
