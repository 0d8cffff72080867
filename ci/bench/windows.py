# SPDX-License-Identifier: Apache-2.0
"""How fast a window of a host's application is, beside other ways to have one: one JSON object, medians of the rounds.

    python ci/bench/windows.py [--rounds 10] [--ways tower,known] [--measures first,key,resize,scroll,idle]

Needs root, and the programs of the tests of windows. Both sides are this machine: the desktop is an X server in memory, the host
its ssh server on the loopback. The application is xterm with a program in it that paints a mark for each key and each new size,
and scrolls a coloured page when it is asked to; the bench looks at the pixels of the desktop.

    tower         `tower run`, with what the host has first: Xvnc
    tower-x11vnc  the same with a host without Xvnc: Xvfb and x11vnc
    known         the known pattern: Xvfb, application, x11vnc and forward by a new ssh connection each, TigerVNC's viewer
    alone         Xvfb, x11vnc and TigerVNC's viewer without any ssh
    tigervnc      as `known`, with Xvnc in place of the two servers
    xpra          xpra's own way by ssh, if it is installed

    first    ms from the command to the first pixel of the application on the desktop
    key      ms from a key to the mark
    resize   ms from the window's new size to the mark that the application paints in it; null: it does not follow
    scroll   different pictures a second while a page scrolls as fast as the application can, and KiB on the wire for each
    idle     bytes a minute on the wire when nothing happens
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tower.display.x11 import CONFIGURE, Packet, Server

from pipeline.images.guest import free_port
from tests.integration.windows.conftest import Place, homes, make_place, missing_here
from tests.integration.windows.screen import GET_IMAGE, client

MEASURES: Final = ("first", "key", "resize", "scroll", "idle")
BACKGROUND: Final = (192, 48, 32)
MARK: Final = (100, 110)
"""A pixel of the desktop that lies in the mark, whether the window has a title bar or not."""
MARKS: Final = {(67, 99, 216), (60, 180, 75), (255, 225, 25)}
LIMIT: Final = 20.0
SCROLLS: Final = 3.0
IDLE: Final = 6.0
SIZES: Final = ((700, 520), (900, 640))
PRESS, RELEASE = 2, 3
KEYS: Final = {"a": 38, "s": 39}
"""Key codes of an X server with its own keyboard."""
PROGRAM: Final = """
import os, select, signal, sys, time, tty
tty.setraw(0)
colours = ["67;99;216", "60;180;75", "255;225;25"]
count = 0
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
signal.signal(signal.SIGWINCH, lambda *_: None)
os.write(1, b"\\x1b[?25l")
def mark():
    global count
    count += 1
    line = f"\\x1b[48;2;{colours[count % 3]}m" + " " * 40 + "\\x1b[m"
    os.write(1, ("\\x1b[H\\x1b[J" + (line + "\\r\\n") * 12).encode())
def scroll():
    ends, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < ends:
        number += 1
        colour = f"{number * 37 % 256};{number * 91 % 256};{number * 53 % 256}"
        text = f"{number:08d} the quick brown fox jumps over the lazy dog"
        os.write(1, f"\\r\\n\\x1b[48;2;{colour}m{text}\\x1b[K\\x1b[m".encode())
        time.sleep(1 / 120)
while True:
    ready = select.select([0, reading], [], [])[0]
    if reading in ready:
        os.read(reading, 100)
        mark()
    if 0 in ready:
        if b"s" in os.read(0, 100):
            scroll()
        else:
            mark()
"""


class Way:
    """One way to have the window: `open` starts it, and ends all of it with the context."""

    title = "xterm"
    resizes = True
    needs: tuple[str, ...] = ()

    def __init__(self, place: Place, program: Path) -> None:
        self.place = place
        self.application = ["xterm", "-bg", "#c03020", "-fg", "#c03020", "+sb", "-e", "/usr/bin/python3", str(program)]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start it, as its user would."""
        with self._child("/bin/true"):
            yield

    def wire(self) -> int:
        """Bytes that went over the wire so far, in both directions."""
        return bytes_at(self.place.port)

    @contextmanager
    def _child(self, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
        null = subprocess.DEVNULL
        child = subprocess.Popen(argv, env=self.place.environment, stdin=null, stdout=null, stderr=null, start_new_session=True)
        try:
            yield child
        finally:
            child.terminate()
            child.wait(60)

    def _settled(self) -> None:
        """End what is left of this place, but its server."""
        for number in self.place.mine():
            if number != self.place.server.pid and self.place.folder / "away" in homes(number):
                with suppress(ProcessLookupError):
                    os.kill(number, 15)


class Product(Way):
    """`tower run`."""

    title = r"\(web\)"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start it by the command line."""
        with self._child(*self.place.argv("--window", "--no-sound", "web", *self.application)):
            yield


class Known(Way):
    """A new ssh connection for each step."""

    resizes = False
    needs = ("x11vnc", "xtigervncviewer")
    servers: tuple[str, ...] = ("Xvfb :77 -screen 0 1024x768x24",)
    last = "x11vnc -display :77 -localhost -rfbport 5977 -nopw -bg -forever -shared -q"
    title = "TigerVNC"

    def on_host(self, command: str) -> None:
        """Run a command of the host's shell to its end."""
        argv = ("ssh", "-F", str(self.place.folder / "home/.local/tower/config"), "-o", "ControlPath=none", "web", command)
        subprocess.run(argv, env=self.place.environment, check=True, capture_output=True, timeout=60)

    def forwarded(self) -> tuple[list[str], int]:
        """Start the forward; return the words to it, and its port."""
        port = free_port()
        config = str(self.place.folder / "home/.local/tower/config")
        options = ("-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-o", "ClearAllForwardings=no")
        return ["ssh", "-F", config, "-N", *options, "-L", f"{port}:127.0.0.1:5977", "web"], port

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start one after the other."""
        try:
            for server in self.servers:
                self.on_host(f"setsid {server} >/dev/null 2>&1 & while [ ! -S /tmp/.X11-unix/X77 ]; do sleep 0.02; done")
            words = " ".join(f"'{word}'" for word in self.application)
            self.on_host(f"DISPLAY=:77 setsid {words} >/dev/null 2>&1 &")
            if self.last:
                self.on_host(self.last)
            argv, port = self.forwarded()
            with ExitStack() as stack:
                if argv:
                    stack.enter_context(self._child(*argv))
                while not listens(port):
                    time.sleep(0.01)
                stack.enter_context(self._child("xtigervncviewer", "-RemoteResize=0", f"127.0.0.1::{port}"))
                yield
        finally:
            self._settled()


class Alone(Known):
    """Without ssh."""

    def on_host(self, command: str) -> None:
        """Run a command here."""
        env = {**self.place.environment, "HOME": str(self.place.folder / "away")}
        subprocess.run(
            ("sh", "-c", command), env=env, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def forwarded(self) -> tuple[list[str], int]:
        """Return the server's own port."""
        return [], 5977

    def wire(self) -> int:
        """Bytes at the VNC server."""
        return bytes_at(5977)


class Tiger(Known):
    """Xvnc, which is both servers."""

    needs = ("Xvnc", "xtigervncviewer")
    servers = ("Xvnc :77 -geometry 1024x768 -depth 24 -localhost -rfbport 5977 -SecurityTypes None",)
    last = ""


class Xpra(Way):
    """Each window by itself."""

    needs = ("xpra",)
    title = "xterm"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start xpra's server on the host by its own ssh."""
        config = str(self.place.folder / "home/.local/tower/config")
        more = ("--exit-with-children=yes", "--pulseaudio=no", "--speaker=off", "--webcam=no", "--printing=no", "--mdns=no")
        start = f"--start-child={' '.join(self.application)}".replace("#c03020", "rgb:c0/30/20")
        try:
            with self._child("xpra", "start", f"--ssh=ssh -F {config}", "ssh://web/", start, "--notifications=no", *more):
                yield
        finally:
            self._settled()


WAYS: Final[dict[str, tuple[type[Way], tuple[str, ...]]]] = {
    "tower": (Product, ()),
    "tower-x11vnc": (Product, ("Xvnc", "Xtigervnc")),
    "known": (Known, ()),
    "alone": (Alone, ()),
    "tigervnc": (Tiger, ()),
    "xpra": (Xpra, ()),
}


def bytes_at(port: int) -> int:
    """Bytes that the server at a port has sent and received by the connections that it has now."""
    said = subprocess.run(("ss", "-tinH", f"sport = :{port}"), capture_output=True, text=True, check=True).stdout.split()
    return sum(int(word.partition(":")[2]) for word in said if word.startswith(("bytes_sent:", "bytes_received:")))


def listens(port: int) -> bool:
    """Return whether somebody listens there."""
    said = subprocess.run(("ss", "-tlnH", f"sport = :{port}"), capture_output=True, text=True, check=True).stdout
    return bool(said.strip())


def answer(found: Packet | None) -> Packet:
    """Return the desktop's answer. Raises RuntimeError if it refused."""
    if found is None:
        raise RuntimeError("the desktop's X server refuses")
    return found


class Eyes:
    """Looks at the desktop, and types there."""

    def __init__(self, server: Server) -> None:
        self.server = server
        found = server.extension(b"XTEST")
        if found is None:
            raise RuntimeError("the desktop's X server has no XTEST")
        self.xtest, _ = found

    def area(self, x: int, y: int, width: int, height: int) -> bytes:
        """Return the pixels of an area."""
        return answer(self.server.ask(GET_IMAGE, 2, "IhhHHI", self.server.root, x, y, width, height, 0xFFFFFFFF)).data[32:]

    def pixel(self) -> tuple[int, int, int]:
        """Return the colour of the mark."""
        blue, green, red = self.area(*MARK, 1, 1)[:3]
        return red, green, blue

    def window(self) -> bool:
        """Return whether the application is there: it may have painted a mark already, for its first size."""
        return self.pixel() in {BACKGROUND, *MARKS}

    def key(self, name: str) -> None:
        """Press a key and let it go."""
        for kind in (PRESS, RELEASE):
            self.server.send(self.xtest, 2, "BBxxIIxxxxxxxxhhxxxxxxxx", kind, KEYS[name], 0, 0, 0, 0)

    def resize(self, window: int, width: int, height: int) -> None:
        """Give a window of the desktop another size."""
        self.server.send(CONFIGURE, 0, "IHHII", window, 0b1100, 0, width, height)

    def ms(self, seen: Callable[[], bool], limit: float = LIMIT) -> float | None:
        """Return how many milliseconds pass until something is seen."""
        begins = time.monotonic()
        while not seen():
            if time.monotonic() - begins > limit:
                return None
            time.sleep(0.0005)
        return (time.monotonic() - begins) * 1000


def measured(way: Way, eyes: Eyes, rounds: int, measures: list[str]) -> dict[str, float | None]:
    """Return the medians of one way. Raises RuntimeError if an earlier one's window stays."""
    found: dict[str, list[float | None]] = {}
    starts = rounds if "first" in measures else 1
    for number in range(starts):
        if eyes.ms(lambda: not eyes.window()) is None:
            raise RuntimeError("an earlier window is still there")
        begins = time.monotonic()
        with way.open():
            eyes.ms(eyes.window, 60)
            found.setdefault("first", []).append((time.monotonic() - begins) * 1000)
            if number == starts - 1:
                within(way, eyes, rounds, measures, found)
        time.sleep(0.3)
    return {
        name: round(statistics.median(one), 1) if (one := [x for x in rows if x is not None]) else None
        for name, rows in found.items()
    }


def within(way: Way, eyes: Eyes, rounds: int, measures: list[str], found: dict[str, list[float | None]]) -> None:
    """Measure in an open window."""
    time.sleep(2)
    way.place.type("windowfocus", way.place.window(way.title), "mousemove", "200", "250", "click", "1")
    time.sleep(0.5)

    def changes(limit: float) -> Callable[[Callable[[], None]], float | None]:
        def measure(act: Callable[[], None]) -> float | None:
            before = eyes.pixel()
            act()
            return eyes.ms(lambda: eyes.pixel() not in (before, BACKGROUND), limit)

        return measure

    if "key" in measures:
        changes(5)(lambda: eyes.key("a"))
        for number in range(2 * rounds):
            time.sleep(0.25 + 0.013 * number)
            found.setdefault("key", []).append(changes(5)(lambda: eyes.key("a")))
    if "resize" in measures and way.resizes:
        window = int(way.place.window(way.title))
        for number in range(rounds + 1):
            time.sleep(0.8)
            one = changes(4)(lambda: eyes.resize(window, *SIZES[number % 2]))  # noqa: B023
            # The first one may be that of a window which has this size already.
            if number:
                found.setdefault("resize", []).append(one)
        time.sleep(1)
    if "scroll" in measures:
        for _ in range(rounds):
            time.sleep(0.6)
            before = way.wire()
            eyes.key("s")
            last, pictures, ends = b"", 0, time.monotonic() + SCROLLS
            while time.monotonic() < ends:
                now = eyes.area(MARK[0], 100, 1, 200)
                pictures += now != last
                last = now
                time.sleep(0.001)
            time.sleep(0.3)
            found.setdefault("scroll pictures a second", []).append(pictures / SCROLLS)
            found.setdefault("scroll KiB a picture", []).append((way.wire() - before) / 1024 / max(pictures, 1))
        eyes.key("a")
        time.sleep(1)
    if "idle" in measures:
        for _ in range(rounds):
            before = way.wire()
            time.sleep(IDLE)
            found.setdefault("idle bytes a minute", []).append((way.wire() - before) * 60 / IDLE)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--measures", default=",".join(MEASURES))
    args = parser.parse_args()
    if missing := missing_here():
        sys.stderr.write(f"not on this machine: {', '.join(missing)}\n")
        return 19
    result: dict[str, object] = {"rounds": args.rounds, "load before": round(os.getloadavg()[0], 1)}
    for name in args.ways.split(","):
        kind, without = WAYS[name]
        if lacks := [one for one in kind.needs if shutil.which(one) is None]:
            result[name] = f"not on this machine: {', '.join(lacks)}"
            continue
        with (
            TemporaryDirectory(prefix="bench-") as folder,
            make_place(Path(folder), without) as place,
            client(place.display) as server,
        ):
            program = Path(folder) / "program.py"
            program.write_text(PROGRAM.replace("SECONDS", str(SCROLLS)))
            result[name] = measured(kind(place, program), Eyes(server), args.rounds, args.measures.split(","))
        sys.stderr.write(f"{name}: {result[name]}\n")
    result["load after"] = round(os.getloadavg()[0], 1)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
