# SPDX-License-Identifier: Apache-2.0
"""The thin client's two wires, below its own firewall: send frames, and read incoming ones, accepted or not.

Root only opens the sockets; sending and reading is done as the user. Sessions of ssh are not seen: the kernel filters
them out, so that a busy Tower is no harder to audit.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.audit import frames
from tower.audit.frames import Seen
from tower.base import proc
from tower.base.errors import ToolError
from tower.base.ready import readable, writable

MARKS: Final = range(20000, 28000)
"""Ports that the audit sends from; nothing else here uses them: the kernel takes those above 32768."""
_OUTGOING: Final = 4
_OTHER_HOST: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_ATTACH_FILTER: Final = 26
_ROOM: Final = 8 << 20
_PATIENCE: Final = 5.0
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)

_OPENER: Final = """\
import socket, sys
made = []
for interface in sys.argv[1:]:
    made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    made[-1].bind((interface, 3))
socket.send_fds(socket.socket(fileno=0), [b'.'], [one.fileno() for one in made])
"""
# Leave out frames of ssh sessions: from port 22 to a port that is none of our marks.
# Opcodes: 28 load 2 bytes, 30 load 1 byte, b1 length of IP's header, 48 load 2 bytes behind it, 15 ==, 35 >=, 45 &, 06 end;
# then how many to skip if so, and if not.
_FILTER: Final = (
    (0x28, 0, 0, 12),  # 0
    (0x15, 0, 10, frames.IPV4),
    (0x30, 0, 0, 23),  # 2
    (0x15, 0, 8, frames.TCP),
    (0x28, 0, 0, 20),  # 4
    (0x45, 6, 0, 0x1FFF),
    (0xB1, 0, 0, 14),  # 6
    (0x48, 0, 0, 14),
    (0x15, 0, 3, 22),  # 8
    (0x48, 0, 0, 16),
    (0x35, 0, 2, MARKS.start),  # 10
    (0x35, 1, 0, MARKS.stop),
    (0x06, 0, 0, 0xFFFF),  # 12: seen
    (0x06, 0, 0, 0),  # 13: left out
)


@dataclass(slots=True)
class Wire:
    """One interface of the thin client."""

    interface: str
    hardware: bytes
    socket: socket.socket
    seen: list[Seen] = field(default_factory=list)
    lost: int = 0

    def send(self, target: bytes, content: bytes) -> None:
        """Send an IP packet to a neighbour's hardware address. Raises ToolError if that fails for some seconds."""
        ends = time.monotonic() + _PATIENCE
        while True:
            try:
                self.socket.send(frames.frame(self.hardware, target, content))
            except OSError as error:
                # A real wire may be slower than we are.
                if error.errno not in _FULL or time.monotonic() > ends:
                    raise ToolError(
                        f"{self.interface}: cannot be sent to: {error.strerror}", hint="is its cable plugged in?"
                    ) from error
                writable([self.socket], 0.01)
            else:
                return

    def take(self) -> None:
        """Read the frames that have come in."""
        while True:
            try:
                data, (_, _, kind, _, _) = self.socket.recvfrom(2048)
            except BlockingIOError:
                break
            except OSError:  # the interface went down: later frames are not seen
                self.lost += 1
                break
            found = frames.read(data) if kind not in (_OUTGOING, _OTHER_HOST) else None
            if found is not None:
                self.seen.append(found)
        _, dropped = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self.lost += dropped


@contextmanager
def wires(interfaces: Sequence[str]) -> Iterator[Mapping[str, Wire]]:
    """Yield the wires of the interfaces; a thread reads them all the time. Raises ToolError if root does not open them."""
    with ExitStack() as stack:
        made = {}
        for interface, handle in zip(interfaces, _open(interfaces), strict=True):
            one = stack.enter_context(socket.socket(fileno=handle))
            _leave_out_sessions(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            one.setblocking(False)
            made[interface] = Wire(interface, hardware_of(interface), one)
        stop = threading.Event()
        reader = threading.Thread(target=_read, args=(list(made.values()), stop), daemon=True)
        reader.start()
        stack.callback(reader.join)
        stack.callback(stop.set)
        yield made


def hardware_of(interface: str) -> bytes:
    """Return the hardware address of an interface of this machine. Raises ToolError if there is none."""
    try:
        return bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text(encoding="ascii").strip().replace(":", ""))
    except (OSError, ValueError) as error:
        raise ToolError(f"{interface}: there is no such interface on this machine", hint="this needs a thin client") from error


def _read(made: Sequence[Wire], stop: threading.Event) -> None:
    while not stop.is_set():
        readable([one.socket for one in made], 0.1)
        for one in made:
            one.take()
        # Frames are read in batches: the kernel keeps them meanwhile.
        time.sleep(0.02)


def _open(interfaces: Sequence[str]) -> Sequence[int]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = (*proc.as_root_here(), sys.executable, "-I", "-c", _OPENER, *interfaces)
        done = proc.run(argv, stdin=theirs.fileno(), timeout=60, check=False, missing="install doas")
        theirs.close()
        _, handles, _, _ = socket.recv_fds(ours, 16, len(interfaces))
    if done.status != 0 or len(handles) != len(interfaces):
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ToolError(
            f"the wires {', '.join(interfaces)}: root did not open them: {' '.join(said)}",
            hint="run this as a user who may become root, on the thin client",
        )
    return handles


def _leave_out_sessions(one: socket.socket) -> None:
    rows = b"".join(struct.pack("HBBI", *row) for row in _FILTER)
    held = ctypes.create_string_buffer(rows)
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(held)))
