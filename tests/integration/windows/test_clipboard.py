# SPDX-License-Identifier: Apache-2.0
"""The clipboard between hosts and an X desktop: real programs copy and paste on both sides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tower.base.ready import readable
from tower.clipboard import messages
from tower.clipboard.content import MOST, Kind
from tower.clipboard.peer import GRACE
from tower.clipboard.selection import Selection
from tower.display import x11
from tower.display.x11 import Packet, key_in

from tests.integration.windows.conftest import Place, children, processes
from tests.integration.windows.screen import client, colour
from tests.integration.windows.waiting import until
from tests.unit.runtime.test_clipboard import png

CORNERS = {"web": ("20", "20"), "vault": ("640", "400")}
COLOUR = {"web": "#b83828", "vault": "#20a040"}


@dataclass
class Display:
    """A display that programs copy on and paste from: the desktop's, or that of a host's application."""

    desk: Place
    name: str
    key: Path | None = None
    host: str = ""

    @property
    def environment(self) -> dict[str, str]:
        key = {"XAUTHORITY": str(self.key)} if self.key else {}
        return {**self.desk.environment, "DISPLAY": f":{self.name}", **key}

    def copy(self, data: str | bytes, target: str = "UTF8_STRING") -> None:
        argv = ["xclip", "-selection", "clipboard", "-i", "-t", target]
        data = data.encode() if isinstance(data, str) else data
        # What it leaves behind to serve the content holds no pipe of ours.
        null = subprocess.DEVNULL
        subprocess.run(argv, env=self.environment, input=data, stdout=null, stderr=null, timeout=60, check=True)

    def paste(self, target: str = "UTF8_STRING") -> bytes:
        argv = ["timeout", "10", "xclip", "-selection", "clipboard", "-o", "-t", target]
        return subprocess.run(argv, env=self.environment, capture_output=True, timeout=60, check=False).stdout

    def gets(self, data: str | bytes, target: str = "UTF8_STRING") -> None:
        """Wait until that can be pasted here."""
        data = data.encode() if isinstance(data, str) else data
        until(lambda: self.paste(target) == data, f"{self.host or 'the thin client'} has {data[:40]!r}")

    def focus(self) -> None:
        """Give the window the keyboard."""
        x, y = CORNERS[self.host]
        self.desk.type("mousemove", "640", "5")  # not over a window: it is left and entered
        self.desk.type("mousemove", str(int(x) + 150), str(int(y) + 150))
        until(lambda: keyboard(self.desk) == [self.host], f"{self.host}'s window has the keyboard")


def keyboard(desk: Place) -> list[str]:
    """The hosts whose windows have the keyboard, as the broker knows it."""
    with suppress(OSError, StopIteration), messages.connected(desk.folder / "home/.local/tower/clipboard") as connection:
        connection.settimeout(20)
        connection.sendall(messages.packed(do="state"))
        held = bytearray()
        while data := connection.recv(4096):
            held += data
        return list(next(messages.unpacked(held))[0]["keyboard"])
    return []


def here(desk: Place) -> Display:
    return Display(desk, desk.display)


def open_window(desk: Place, host: str, *options: str) -> Display:
    """The display of an xterm of a host, whose window has the keyboard."""
    before = set(desk.ids())
    desk.start(*options, host, "xterm", "-bg", COLOUR[host], "-fg", COLOUR[host], "+sb", "-geometry", "60x15")
    x, y = CORNERS[host]
    window = desk.window(rf"\({host}\)")
    desk.type("windowmove", window, x, y)
    desk.picture(
        lambda found: found.share(colour(COLOUR[host]), int(x) + 50, int(y) + 80, int(x) + 200, int(y) + 150) > 0.9,
        f"xterm of {host}",
    )
    (number,) = set(desk.ids()) - before
    made = Display(desk, (desk.windows / number / "display").read_text().strip(), desk.windows / number / "key", host)
    if "--no-clipboard" not in options:
        made.focus()
    return made


def log(desk: Place) -> list[tuple[str, str, str, int, str]]:
    """What crossed: from, to, kind, size and how."""
    found: dict[str, Any] = json.loads(desk.tower("clipboard", "log", "--json").stdout)
    return [(one["from"], one["to"], one["kind"], one["size"], one["how"]) for one in found["transfers"]]


TEXTS = ["plain", "Grüße, 東京 🗼\n", "x" * 1_000_000]


@pytest.mark.qa("A05", simulated="both sides are this machine, and the desktop is an X server in memory")
@pytest.mark.parametrize("text", TEXTS, ids=["plain", "unicode", "1 MB"])
def test_texts_pass_both_ways_while_the_window_has_the_keyboard(desk: Place, text: str) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy(text)
    web.gets(text)
    web.copy(f"{text} back")
    thin.gets(f"{text} back")
    sizes = len(text.encode()), len(text.encode()) + 5
    kind = "text/plain;charset=utf-8"
    assert log(desk) == [("thinclient", "web", kind, sizes[0], "window"), ("web", "thinclient", kind, sizes[1], "window")]


def test_html_and_pictures_pass_both_ways(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    for target, data in (("text/html", b"<p>a <b>bold</b> word</p>"), ("image/png", png(600, 400, rows=os.urandom(400 * 1801)))):
        thin.copy(data, target)
        web.gets(data, target)
        back = data.replace(b"bold", b"new") if target == "text/html" else png(20, 30)
        web.copy(back, target)
        thin.gets(back, target)
    assert thin.paste("UTF8_STRING") == b""


def test_a_text_beyond_the_limit_does_not_pass_and_the_window_says_so(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("before")
    web.gets("before")
    web.copy("x" * (MOST + 1))
    desk.window("The text that was copied on web is too large")
    assert thin.paste() == b"before"
    web.copy("y" * 900_000)
    thin.gets("y" * 900_000)
    thin.copy("z" * (MOST + 1))
    web.gets(b"")
    assert [how for *_, how in log(desk)] == ["window", "too large", "window", "too large"]


def test_odd_contents_of_a_host_come_clean_or_not_at_all(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    web.copy(b"\xffinvalid \xc3 UTF-8 \x1b[201~rm\n\0")
    thin.gets("\ufffdinvalid \ufffd UTF-8 [201~rm\n")
    for target, data in (
        ("UTF8_STRING", b""),
        ("UTF8_STRING", b"\x1b\0\x07"),
        ("image/png", b"\x89PNG\r\n\x1a\nIHDR" + bytes(99)),
    ):
        before = thin.paste()
        web.copy(data, target)
        web.copy(f"after {target} {data!r}")
        thin.gets(f"after {target} {data!r}")
        assert before != thin.paste()


def test_a_copy_of_one_host_reaches_another_only_by_send(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    vault = open_window(desk, "vault")
    web.focus()
    web.copy("of web")
    thin.gets("of web")
    vault.focus()
    assert vault.paste() == b""
    done = desk.tower("clipboard", "send", "vault")
    assert (done.returncode, done.stderr) == (0, "vault: its windows have what was copied on web\n")
    vault.gets("of web")
    web.focus()
    web.copy("of web, later")
    thin.gets("of web, later")
    vault.focus()
    assert vault.paste() == b""
    assert [(origin, target, how) for origin, target, _, _, how in log(desk)] == [
        ("web", "thinclient", "window"), ("web", "vault", "sent"), ("web", "thinclient", "window"),
    ]  # fmt: skip


def test_a_copy_of_a_copy_is_still_the_hosts(desk: Place) -> None:
    """A clipboard manager of the thin client takes the content over."""
    web, thin = open_window(desk, "web"), here(desk)
    vault = open_window(desk, "vault")
    web.focus()
    web.copy("of web")
    thin.gets("of web")
    thin.copy(thin.paste())
    vault.focus()
    assert vault.paste() == b""
    thin.copy("of the thin client")
    vault.gets("of the thin client")


def test_no_texts_pass_without_the_keyboard(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    vault = open_window(desk, "vault")
    thin.copy("for vault")
    vault.gets("for vault")
    assert web.paste() == b""
    left = time.monotonic()
    until(lambda: time.monotonic() - left > GRACE, "web is not heard any more")
    web.copy("from web")
    vault.copy("from vault")
    thin.gets("from vault")
    assert web.paste() == b"from web"


def test_no_clipboard(desk: Place) -> None:
    web, thin = open_window(desk, "web", "--no-clipboard"), here(desk)
    thin.copy("a secret of this machine")
    assert web.paste() == b""
    web.copy("from web")
    assert not desk.find("tower.clipboard.broker")
    assert thin.paste() == b"a secret of this machine"


def test_the_user_is_asked_where_the_policy_says_so(desk: Place) -> None:
    assert desk.tower("clipboard", "policy", "web", "thinclient", "ask").returncode == 0
    assert desk.tower("clipboard", "policy", "thinclient", "web", "ask").returncode == 0
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("here")
    until(lambda: b"UTF8_STRING" in web.paste("TARGETS"), "the host is offered it, which would replace what is copied there")
    for text, key, wanted in (("one", "alt+r", b"here"), ("two", "alt+a", b"two")):
        web.copy(text)
        question = desk.window(r"Clipboard \(web\)")
        assert thin.paste() == b"here"
        # It cannot be allowed at once: the key is pressed until it is.
        until(lambda question=question, key=key: pressed(desk, question, key), "the question is answered")  # type: ignore[misc]
        thin.gets(wanted)
    assert [how for *_, how in log(desk)] == ["asked"]


def pressed(desk: Place, window: str, key: str) -> bool:
    """Press a key in a window, and tell whether it is gone then."""
    argv = ["xdotool", "windowfocus", window, "key", key]
    return subprocess.run(argv, env=desk.environment, capture_output=True, timeout=20, check=False).stderr != b""


def insist(source: Display, target: Display, text: str) -> None:
    """Copy until it is there: a manager on the same display may just be putting back what it read before."""

    def there() -> bool:
        if target.paste() == text.encode():
            return True
        source.copy(text)
        return False

    until(there, f"{target.host or 'the thin client'} has {text}")


def test_sharing_among_all_ends_where_nothing_is_new(desk: Place) -> None:
    """Clipboard managers on both hosts take over whatever they see."""
    assert desk.tower("clipboard", "policy", "share-all").returncode == 0
    web, thin = open_window(desk, "web"), here(desk)
    vault = open_window(desk, "vault")
    script = "while sleep 0.1; do timeout 5 xclip -o -sel c -t $t >$0 2>&- && xclip -i -sel c -t $t <$0; printf . >>$1; done"
    null = subprocess.DEVNULL
    managers = [
        subprocess.Popen(
            ["sh", "-c", script, desk.folder / f"managed-{one.host}", desk.folder / f"rounds-{one.host}"],
            env={**one.environment, "t": "UTF8_STRING"},
            stdout=null,
            stderr=null,
        )
        for one in (web, vault)
    ]
    try:
        for text in ("one", "two"):
            insist(web, thin, text)
            vault.gets(text)
        insist(thin, web, "three")
        vault.gets("three")
        lines = log(desk)
        rounds = [(desk.folder / f"rounds-{one.host}").stat().st_size for one in (web, vault)]
        for one, before in zip((web, vault), rounds, strict=True):
            path = desk.folder / f"rounds-{one.host}"
            until(lambda path=path, before=before: path.stat().st_size > before + 10, "ten more copies")  # type: ignore[misc]
        assert log(desk) == lines
        assert len(lines) <= 8
    finally:
        for manager in managers:
            manager.kill()
            manager.wait(20)


class Program:
    """A program on a display, by the product's own client of X: it copies as often, and answers as oddly, as a test wants."""

    def __init__(self, display: Display) -> None:
        key = key_in(display.key.read_bytes()) if display.key else bytes(16)
        self.stack = ExitStack()
        self.server = self.stack.enter_context(client(display.name, key))
        self.selection = Selection(self.server, lambda _: None, self.wanted)
        self.selection.begin()
        self.text = b""

    def wanted(self, token: int, _kind: Kind) -> None:
        self.selection.give(token, self.text)

    def copy(self, text: bytes) -> None:
        self.text = text
        self.selection.own((Kind.TEXT,))

    def serve(self, seen: Callable[[], object], event: Callable[[Packet], None] | None = None) -> None:
        """Answer those who ask until something is so."""
        ends = time.monotonic() + 60
        while not seen():
            assert time.monotonic() < ends
            if readable([self.server.socket], 0.1):
                (event or self.selection.event)(self.server.read(time.monotonic() + 5))
            while self.server.events:
                (event or self.selection.event)(self.server.events.popleft())


def test_of_a_thousand_changes_the_last_one_counts(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    for source, target in ((web, thin), (thin, web)):
        one = Program(source)
        with one.stack, ThreadPoolExecutor(1) as pool:
            for number in range(1001):
                one.copy(b"%d" % number)
            got = pool.submit(target.gets, "1000")
            one.serve(got.done)
            got.result()
        source.copy("and on")
        target.gets("and on")
    assert len(log(desk)) < 100


def test_a_host_that_does_not_deliver_is_given_up(desk: Place) -> None:
    """It announces a text and is silent, or sends parts of it without end, or more than it may."""
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("before")
    web.gets("before")
    one = Program(web)
    asked: list[tuple[int, ...]] = []
    parts = {"silent": 0, "endless": 1 << 30, "many": 100}
    path, refused = desk.folder / "home/.local/tower/clipboard/log", 0

    def odd(packet: Packet) -> None:
        if packet.kind == 30:
            at, _, asker, selection, target, place = packet.numbers("6I", 4)
            if target == one.server.atom("TARGETS"):
                one.selection.event(packet)
            else:
                asked.append((asker, place))
                one.server.send(x11.CHANGE_ATTRIBUTES, 0, "III", asker, 1 << 11, 1 << 22)
                one.server.send(
                    x11.CHANGE_PROPERTY, 0, "IIIBBBBII", asker, place, one.server.atom("INCR"), 32, 0, 0, 0, 1, 1 << 31
                )
                one.selection._answer(at, asker, selection, target, place)
        elif packet.kind == x11.PROPERTY and packet.data[16] == 1 and parts[how] > 0:
            window, place = packet.numbers("II", 4)
            parts[how] -= 1
            one.selection._put(window, place, one.server.atom("UTF8_STRING"), b"x" * 200_000)

    with one.stack:
        for how in parts:
            asked.clear()
            one.copy(how.encode())
            one.serve(lambda: asked, odd)
            if how != "silent":
                refused += 1
                one.serve(lambda wanted=refused: path.exists() and path.read_text().count("too large") == wanted, odd)  # type: ignore[misc]
            assert thin.paste() == b"before"
        web.copy("after")
        thin.gets("after")


def test_contents_are_forgotten_after_a_time(desk: Place) -> None:
    assert desk.tower("clipboard", "policy", "--clear", "2").returncode == 0
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("of this machine")
    web.gets("of this machine")
    until(lambda: web.paste() == b"", "web cannot ask for it any more")
    assert thin.paste() == b"of this machine"
    web.copy("of web")
    thin.gets("of web")
    until(lambda: thin.paste() == b"", "the thin client has forgotten it")
    web.copy("again")
    thin.gets("again")
    assert desk.tower("clipboard", "clear").returncode == 0
    assert thin.paste() == b""


def test_a_connection_that_breaks_comes_back_with_the_clipboard(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("before")
    web.gets("before")
    before = children(desk.started[0], "tower.windows.viewer")
    for number in children(desk.server):
        os.kill(number, signal.SIGKILL)
    until(lambda: children(desk.started[0], "tower.windows.viewer") not in ([], before), "another viewer")
    desk.type("windowmove", desk.window(r"\(web\)"), *CORNERS["web"])
    web.focus()
    thin.copy("after")
    web.gets("after")
    web.copy("back")
    thin.gets("back")
    assert len(desk.find("tower.clipboard.broker")) == 1


def test_a_killed_viewer_leaves_no_watcher_and_a_killed_broker_comes_back(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    (broker,) = desk.find("tower.clipboard.broker")
    os.kill(broker, signal.SIGKILL)
    until(lambda: desk.find("tower.clipboard.broker") not in ([], [broker]), "another broker")
    web.copy("back")
    thin.gets("back")
    os.kill(children(desk.started[0], "tower.windows.viewer")[0], signal.SIGKILL)
    until(lambda: not desk.find("tower.clipboard.broker"), "no broker")
    assert not (desk.folder / "home/.local/tower/clipboard/socket").exists()
    until(lambda: not desk.find(f"sh connect {desk.id()}"), "nothing on the host")


def test_contents_are_in_no_file_and_no_command_line(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    secret = "correct horse battery staple"
    thin.copy(secret)
    web.gets(secret)
    web.copy(secret[::-1])
    thin.gets(secret[::-1])
    assert len(log(desk)) == 2
    for text in (secret, secret[::-1]):
        assert not [line for line in processes().values() if text in line]
        for path in (desk.folder / "home").rglob("*"):
            with suppress(OSError):
                assert not path.is_file() or text.encode() not in path.read_bytes(), path
    for name in ("log", "socket"):
        assert (desk.folder / "home/.local/tower/clipboard" / name).stat().st_mode & 0o777 == 0o600


def test_nothing_passes_by_a_damaged_policy(desk: Place) -> None:
    web, thin = open_window(desk, "web"), here(desk)
    thin.copy("before")
    web.gets("before")
    path = desk.folder / "home/.local/tower/clipboard/policy.json"
    path.write_text('{"version": 1}')
    web.copy("of web")
    desk.window("policy.json: must be an object")
    assert thin.paste() == b"before"
    done = desk.tower("clipboard", "send", "web")
    assert (done.returncode, "tower clipboard policy default" in done.stderr) == (12, True)
    assert desk.tower("clipboard", "policy", "default").returncode == 0
    web.copy("after")
    thin.gets("after")
