# SPDX-License-Identifier: Apache-2.0
"""Write a new image onto the boot device of a running host, over its own ssh connection.

    look -> make -> send -> start -> watch

The disk is made here, as a sparse file, in the same way as `tower.disk.make` makes any; its data is cut into pieces, named
by their SHA-256. The host collects them beside its system and checks each as it comes; until it has all of them, nothing
of its boot device is changed. Then it writes them by itself, with or without the connection, reads each back past its
cache, and compares digests. The root comes first; then the boot partition, and the partition table last: until shortly
before the end, a host that loses its power starts as it did before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Final

from tower.base import proc
from tower.base.errors import DeviceError, GarbageError, HangsError, ImageProblemError, LostError, RemoteError, TowerError
from tower.base.files import own_folder
from tower.base.ready import readable
from tower.base.refused import refused
from tower.base.view import View
from tower.disk.make import HostDisk, make_disk
from tower.disk.medium import ALIGN, opened
from tower.disk.partition import UNIT, Partition, data_units, partitions
from tower.hosts.registry import Host, Tower
from tower.install.connection import connect
from tower.ssh.sessions import Session, as_root

FOLDER: Final = "/var/lib/tower/upgrade"
SCRIPT: Final = f"{FOLDER}/upgrade.sh"
# `mkdir -p -m` sets the mode of the last folder only: the umask decides those above it.
_MAKE: Final = 'umask 022; mkdir -p -- "${1%/*}"; umask 077; mkdir -p -- "$1"'
PIECE_UNITS: Final = 64
"""The most bytes of a piece: 4 MiB."""
_PATH: Final = re.compile(r"/[A-Za-z0-9._/-]{1,200}")
_IDENTITY: Final = re.compile(r"[0-9a-z:/-]{1,200}")
_LARGEST: Final = 2 << 40
"""The most bytes of a boot device: a partition table of ours cannot describe more."""
_WRITING: Final = re.compile(r"writing ([0-9]{1,9}) ([0-9]{1,9})")
_ROOM: Final = 64 << 20
"""Bytes that must stay free on the host beside the pieces."""
_SHORT: Final = 60
_PAUSE: Final = 0.5
_SILENT: Final = 120.0
"""Seconds without a connection after which we no longer wait for a host that is writing."""


@dataclass(frozen=True, slots=True)
class Found:
    """The boot device of a host, as the host describes it."""

    device: str
    size: int
    free: int
    """Bytes for the pieces."""
    rows: tuple[Partition, ...]
    receipt: bytes
    """The receipt on its boot partition; empty if that could not be read."""
    state: str
    identity: str = ""
    """Distinguishes it from any other device until the host restarts."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the disk, in units of 64 KiB."""

    place: int
    units: int
    sha256: str


def script() -> bytes:
    """Return the script for the host."""
    return files("tower.upgrade").joinpath("upgrade.sh").read_bytes()


def look(session: Session, device: str | None) -> Found:
    """Return the host's boot device, or the named one. Raises DeviceError if it may not be written; changes nothing."""
    name = session.host.name
    argv = ("sh", "-s", "--", "look", *([device] if device else []))
    try:
        done = session.root(argv, stdin=script(), timeout=_SHORT, most=1 << 20)
    except RemoteError as error:
        hint = f"put its boot device into this machine: tower upgrade {name} --device DEVICE"
        raise DeviceError(error.message, hint=hint) from None
    odd = GarbageError(f"{name}: its description of its boot device is not valid")
    try:
        rows = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
        table, receipt = (base64.b64decode(rows[key], validate=True) for key in ("table", "receipt"))
        found = rows["device"], int(rows["size"]), int(rows["free"]) * 1024
        identity = rows["identity"]
    except (ValueError, KeyError, binascii.Error):
        raise odd from None
    if _PATH.fullmatch(found[0]) is None or _IDENTITY.fullmatch(identity) is None or not 0 < found[1] <= _LARGEST or found[2] < 0:
        raise odd
    try:
        return Found(*found, partitions(table, f"{name}: {found[0]}"), receipt, rows.get("state", ""), identity)
    except ImageProblemError as error:
        raise DeviceError(error.message, hint="choose the right one: --boot-device DEVICE") from None


@contextmanager
def made(job: HostDisk, found: Found, folder: Path, view: View) -> Iterator[tuple[Path, tuple[Piece, ...]]]:
    """Make the host's new disk in a file, removed at the end, and its pieces in the order of writing."""
    # In a folder of its own: another host may be upgraded at the same time, and it holds the host's keys.
    with ExitStack() as stack:
        try:
            path = stack.enter_context(own_folder(folder, ".upgrade-")) / "disk"
        except OSError as error:
            raise refused(error, folder, kind=DeviceError, hint="the disk is made in a file there: free some space") from error
        with opened(path, size=found.size - found.size % ALIGN) as medium:
            make_disk(job, medium, resume=False, view=view)
        with path.open("rb") as stream:
            new = partitions(stream.read(512), str(path))
            with view.bar("cutting into pieces", len(data_units(path)) * UNIT) as advance:
                rows = pieces(path, stream, found.rows, new, advance)
        yield path, rows


def pieces(
    path: Path,
    stream: IO[bytes],
    old: tuple[Partition, ...],
    new: tuple[Partition, ...],
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[Piece, ...]:
    """Return the pieces of a disk in a sparse file, in an order that is safe for one partitioned as `old`.

    First those behind both boot partitions; then those in them; then those in front of them, and the first unit last.
    """
    boots = (*old[:1], new[0])
    behind, front = max(row.start + row.size for row in boots) // UNIT, min(row.start for row in boots) // UNIT

    def turn(unit: int) -> int:
        return 0 if unit >= behind else 1 if unit >= front else 2 if unit else 3

    groups: list[tuple[int, int]] = []
    for unit in sorted(data_units(path)):
        if groups and sum(groups[-1]) == unit and turn(groups[-1][0]) == turn(unit) and groups[-1][1] < PIECE_UNITS:
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        else:
            groups.append((unit, 1))
    found: list[Piece] = []
    for place, units in sorted(groups, key=lambda group: (turn(group[0]), group[0])):
        found.append(Piece(place, units, hashlib.sha256(read_piece(stream, place, units)).hexdigest()))
        advance(units * UNIT)
    return tuple(found)


def read_piece(stream: IO[bytes], place: int, units: int) -> bytes:
    """Read the bytes of a piece; zeros beyond the end of the file."""
    data = os.pread(stream.fileno(), units * UNIT, place * UNIT)
    return data + bytes(units * UNIT - len(data))


def plan_of(rows: Iterable[Piece]) -> bytes:
    """Return the list of pieces for the host."""
    return "".join(f"{row.place} {row.units} {row.sha256}\n" for row in rows).encode()


def send(session: Session, found: Found, path: Path, rows: tuple[Piece, ...], view: View) -> str:
    """Send the pieces that the host lacks; return the digest of the plan. Raises DeviceError, LostError or RemoteError."""
    name = session.host.name
    session.root(("sh", "-c", _MAKE, "sh", FOLDER), timeout=_SHORT)
    session.put(script(), SCRIPT, root=True)
    there = set(session.root(("sh", SCRIPT, "have"), timeout=_SHORT).stdout.decode(errors="replace").split())
    missing = {row.sha256: row for row in rows if row.sha256 not in there}
    size = sum(row.units for row in missing.values()) * UNIT
    if size + _ROOM > found.free:
        raise DeviceError(
            f"{name}: has {found.free >> 20} MiB free in /var/lib, {(size + _ROOM) >> 20} are needed for the new image",
            hint=f"free some space; or put its boot device into this machine: tower upgrade {name} --device DEVICE",
        )
    with view.bar("sending", size) as advance:
        if missing:
            _send(session, path, list(missing.values()), advance)
    plan = plan_of(rows)
    session.put(plan, f"{FOLDER}/plan", root=True)
    return hashlib.sha256(plan).hexdigest()


def _send(session: Session, path: Path, rows: list[Piece], advance: Callable[[int], object]) -> None:
    """Send pieces to the host, and read which ones it has stored."""
    name = session.host.name
    with session.popen(as_root(("sh", SCRIPT, "keep"))) as child:
        assert child.stdin is not None  # noqa: S101  (they are pipes)
        assert child.stdout is not None  # noqa: S101
        assert child.stderr is not None  # noqa: S101
        feeder = threading.Thread(target=_feed, args=(child.stdin, path, rows), daemon=True)
        feeder.start()
        taken = 0
        rest = b""
        while taken < len(rows) and (data := _heard(child.stdout, name, _SILENT)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > 64:
                raise GarbageError(f"{name}: sent something that is not a digest")
            for line in lines:
                if taken == len(rows) or line != rows[taken].sha256.encode():
                    raise GarbageError(f"{name}: confirmed another piece than the one that was sent")
                advance(rows[taken].units * UNIT)
                taken += 1
        if taken < len(rows):
            said = _heard(child.stderr, name, 5).decode(errors="replace").strip()
            if not session.alive():
                raise LostError(f"{name}: the connection broke while the image was sent")
            shown = "".join(char if char.isprintable() else " " for char in said[:300])
            raise DeviceError(f"{name}: {shown or 'did not take the new image'}", hint="make room in /var/lib of the host")
        feeder.join(_SHORT)
        proc.ended(child, _SHORT)


def _heard(stream: IO[bytes], name: str, limit: float) -> bytes:
    if not readable([stream], limit):
        raise HangsError(f"{name}: silent for {limit:.0f} s", hint=f"see what it does: ssh {name} top")
    return os.read(stream.fileno(), 4096)


def _feed(out: IO[bytes], path: Path, rows: list[Piece]) -> None:
    # If the connection breaks here, the reader of the host's answers notices.
    with suppress(OSError, ValueError), path.open("rb") as stream:
        for row in rows:
            for data in (f"{row.sha256} {row.units}\n".encode(), read_piece(stream, row.place, row.units)):
                left = memoryview(data)
                while left:
                    left = left[out.write(left) :]
        out.close()


def start(session: Session, found: Found, digest: str) -> None:
    """Have the host write its boot device, if it has not been replaced; from here on the host works by itself."""
    session.root(("sh", SCRIPT, "start", found.device, digest, found.identity), timeout=_SHORT)


def watch(tower: Tower, host: Host, view: View, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until the host has written its boot device; reconnect if the connection breaks.

    Raises DeviceError if the host could not write it, LostError if the host was silent for two minutes.
    """
    heard = time.monotonic()
    with ExitStack() as stack:
        show = _Shown(stack, view, f"{host.name} writes and reads back")
        while True:
            try:
                with connect(tower, host) as session:
                    while True:
                        heard = time.monotonic()
                        if _is_done(host, session.root(("sh", SCRIPT, "state"), timeout=_SHORT).stdout, show):
                            return
                        sleep(_PAUSE)
            except (DeviceError, RemoteError):
                raise
            except TowerError as error:
                if time.monotonic() - heard > _SILENT:
                    raise LostError(
                        f"{host.name}: silent for {_SILENT:.0f} s: {error.message}",
                        hint="it continues by itself as long as it has power",
                    ) from None
                sleep(_PAUSE)


class _Shown:
    """The bar of the host's work; it appears when the host has said how much there is to do."""

    def __init__(self, stack: ExitStack, view: View, text: str) -> None:
        self._stack, self._view, self._text = stack, view, text
        self._advance: Callable[[int], object] | None = None
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        if self._advance is None:
            self._advance = self._stack.enter_context(self._view.bar(self._text, total * UNIT))
        self._advance(max(0, done - self._done) * UNIT)
        self._done = max(done, self._done)


def _is_done(host: Host, data: bytes, show: Callable[[int, int], object]) -> bool:
    said = data[:4096].decode(errors="replace").strip()
    word, _, rest = said.partition(" ")
    if word in ("failed", "stopped", "nothing"):
        shown = "".join(char if char.isprintable() else " " for char in rest)
        raise DeviceError(f"{host.name}: its boot device is not written: {shown or word}")
    if (writing := _WRITING.fullmatch(said)) is not None:
        show(int(writing[1]), int(writing[2]))
    return word == "done"


def state_of(session: Session) -> str:
    """Return the host's state in one word: nothing, checking, writing, stopped, failed, done."""
    done = session.root(("sh", "-s", "--", "state"), stdin=script(), timeout=_SHORT, most=4096)
    return done.stdout.decode(errors="replace").partition(" ")[0].strip()


def clean(session: Session) -> None:
    """Remove the pieces. Raises RemoteError while the host writes its boot device."""
    session.root(("sh", "-s", "--", "clean"), stdin=script(), timeout=_SHORT)
