# SPDX-License-Identifier: Apache-2.0
"""A Wayland desktop in memory: sway, with a keyboard and a pointer, for tests of windows."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

import pytest

from tests.gui.pictures import Picture, keep, read_ppm
from tests.integration.windows.waiting import SECONDS, until

NEEDED = ("grim", "setpriv", "sway", "wl-copy", "wl-paste", "wtype")
_CONFIG = """\
xwayland disable
default_border none
output * resolution 1280x800
"""


@contextmanager
def desktop(folder: Path, config: str = "") -> Iterator[Screen]:
    """Yield a desktop; `config` is what sway is told more."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"not on this machine: {', '.join(missing) or 'root'}")
    (folder / "config").write_text(_CONFIG + config)
    os.chown(folder, 65534, 65534)
    # It does not run as root, nor as somebody who can become root; but the folders of this test are root's.
    user = (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    )
    made = {"WLR_BACKENDS": "headless", "WLR_LIBINPUT_NO_DEVICES": "1", "WLR_RENDERER": "pixman", "XDG_RUNTIME_DIR": str(folder)}
    env = {**{name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}, **made}
    with (folder / "said").open("wb") as said:
        server = subprocess.Popen([*user, "sway", "-c", folder / "config"], env=env, stdout=said, stderr=said, cwd=folder)
    try:
        until(lambda: server.poll() is not None or [*folder.glob("sway-ipc.*.sock")], "a desktop")
        (socket_path,) = (path for path in folder.glob("wayland-*") if not path.name.endswith(".lock"))
        made = {"XDG_RUNTIME_DIR": str(folder), "WAYLAND_DISPLAY": socket_path.name, "GDK_BACKEND": "wayland"}
        # wtype is the keyboard: without one, no window has it. It would outlive the desktop.
        keys = subprocess.Popen(
            ["wtype", "-s", "3600000"], env={**env, **made}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with Pointer(folder / socket_path.name) as pointer:
                yield Screen(made, pointer)
        finally:
            keys.kill()
            keys.wait(20)
    finally:
        server.terminate()
        server.wait(20)


class _Device:
    """A connection to a desktop, with something that it gives us by one of wlroots' protocols for what people use."""

    def __init__(self, path: Path, manager: bytes, *, of_seat: bool) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(os.fspath(path))
        registry, done, seat, maker, self.number = 2, 3, 4, 5, 6
        self.send(1, 1, registry)
        self.send(1, 0, done)
        held = b""
        # The answer to the second request comes after all that there is.
        while struct.pack("=IHH", done, 0, 12) not in held:
            held += self.socket.recv(65536)
        for wanted, number in ((b"wl_seat\0", seat), (manager + b"\0", maker)):
            (name,) = struct.unpack_from("=I", held, held.index(struct.pack("=I", len(wanted)) + wanted) - 4)
            body = struct.pack("=II", name, len(wanted)) + wanted + bytes(-len(wanted) % 4) + struct.pack("=II", 1, number)
            self.socket.sendall(struct.pack("=IHH", registry, 0, 8 + len(body)) + body)
        self.send(maker, 0, seat if of_seat else 0, self.number)

    def send(self, number: int, code: int, *values: int, file: int | None = None) -> None:
        """Send a request that consists of numbers, and of an open file."""
        data = struct.pack(f"=IHH{len(values)}I", number, code, 8 + 4 * len(values), *values)
        socket.send_fds(self.socket, [data], [] if file is None else [file])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


class Keyboard(_Device):
    """A keyboard with a layout, by its name among the symbols of XKB: `de`, `us(intl)+compose(menu)`."""

    def __init__(self, path: Path, layout: str) -> None:
        super().__init__(path, b"zwp_virtual_keyboard_manager_v1", of_seat=True)
        parts = {"keycodes": "evdev", "types": "complete", "compat": "complete", "symbols": f"pc+{layout}+inet(evdev)"}
        text = "".join(f'xkb_{name} {{ include "{value}" }};\n' for name, value in parts.items())
        data = f"xkb_keymap {{\n{text}}};\n".encode() + b"\0"
        with TemporaryFile() as file:
            file.write(data)
            file.flush()
            self.send(self.number, 0, 1, len(data), file=file.fileno())

    def press(self, key: str) -> None:
        """Press a key by its number in linux/input-event-codes.h, after those that are held: `shift+altgr+18`."""
        *held, name = key.split("+")
        self.send(self.number, 2, sum({"shift": 1, "altgr": 1 << 7}[one] for one in held), 0, 0, 0)
        for pressed in (1, 0):
            self.send(self.number, 1, 0, int(name), pressed)
        self.send(self.number, 2, 0, 0, 0, 0)


class Pointer(_Device):
    """A pointer; without one, a desktop in memory has none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, b"zwlr_virtual_pointer_manager_v1", of_seat=False)

    def move(self, x: int, y: int, width: int, height: int) -> None:
        """Go to a place of a screen of this size."""
        self.send(self.number, 1, 0, x, y, width, height)
        self.send(self.number, 4)

    def click(self) -> None:
        """Press the left button, and let it go."""
        for pressed in (1, 0):
            self.send(self.number, 2, 0, 0x110, pressed)
            self.send(self.number, 4)


@dataclass(frozen=True)
class Screen:
    """What the desktop shows, and what is pressed there."""

    more: Mapping[str, str]
    """The variables of its programs."""
    pointer: Pointer

    def tell(self, *words: str) -> object:
        """Say something to sway, and return its answer."""
        (ipc,) = Path(self.more["XDG_RUNTIME_DIR"]).glob("sway-ipc.*.sock")
        done = subprocess.run(["swaymsg", "-r", "-s", ipc, *words], check=True, capture_output=True, timeout=20)
        return json.loads(done.stdout)

    def keyboard(self, layout: str) -> Keyboard:
        """Another keyboard, with a layout."""
        return Keyboard(Path(self.more["XDG_RUNTIME_DIR"]) / self.more["WAYLAND_DISPLAY"], layout)

    def point(self, x: int, y: int) -> None:
        """Take the pointer to a place."""
        self.pointer.move(x, y, 1280, 800)

    def click(self) -> None:
        """Press the pointer's button."""
        self.pointer.click()

    def windows(self) -> list[dict[str, object]]:
        """The windows, as sway describes them."""
        return list(_leaves(self.tell("-t", "get_tree")))

    def type(self, *words: str) -> None:
        """Press keys, as wtype has them."""
        subprocess.run(["wtype", *words], env={**os.environ, **self.more}, check=True, timeout=60)

    def picture(self) -> Picture:
        """What is on the screen."""
        argv = ["grim", "-t", "ppm", "-"]
        return read_ppm(subprocess.run(argv, env={**os.environ, **self.more}, check=True, capture_output=True, timeout=60).stdout)

    def wait(self, seen: Callable[[Picture], bool], what: str) -> Picture:
        """The screen when it shows what it should; the last picture is kept in build/gui/."""
        ends = time.monotonic() + SECONDS
        while not seen(found := self.picture()) and time.monotonic() < ends:
            time.sleep(0.05)
        path = keep(found, what)
        assert seen(found), f"the screen never showed this: {what} ({path})"
        return found


def _leaves(tree: object) -> Iterator[dict[str, object]]:
    assert isinstance(tree, dict)
    if tree.get("pid"):
        yield tree
    for key in ("nodes", "floating_nodes"):
        for one in tree.get(key, ()):
            yield from _leaves(one)
