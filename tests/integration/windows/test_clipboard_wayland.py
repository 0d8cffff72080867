# SPDX-License-Identifier: Apache-2.0
"""The clipboard between hosts and a Wayland desktop, without an X server, as the product has it: sway in memory, wl-clipboard."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import pytest
from tower.clipboard.content import MOST

from tests.integration.windows.conftest import Place
from tests.integration.windows.test_clipboard import Display, keyboard, log
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen
from tests.unit.runtime.test_clipboard import png

_TEXT = "text/plain;charset=utf-8"


@dataclass
class Desktop:
    """The clipboard of the Wayland desktop."""

    desk: Place

    def copy(self, data: str | bytes, kind: str = _TEXT) -> None:
        data = data.encode() if isinstance(data, str) else data
        null = subprocess.DEVNULL
        argv = ["wl-copy", "-t", kind]
        subprocess.run(argv, env=self.desk.environment, input=data, stdout=null, stderr=null, timeout=60, check=True)

    def paste(self, kind: str = _TEXT) -> bytes:
        argv = ["wl-paste", "-n", "-t", kind]
        return subprocess.run(argv, env=self.desk.environment, capture_output=True, timeout=60, check=False).stdout

    def gets(self, data: str | bytes, kind: str = _TEXT) -> None:
        data = data.encode() if isinstance(data, str) else data
        until(lambda: self.paste(kind) == data, f"the thin client has {data[:40]!r}")


def open_window(desk: Place, host: str) -> Display:
    before = set(desk.ids())
    desk.start(host, "xterm")
    until(lambda: set(desk.ids()) - before, "an application")
    (number,) = set(desk.ids()) - before
    until((desk.windows / number / "display").exists, "its display")
    made = Display(desk, (desk.windows / number / "display").read_text().strip(), desk.windows / number / "key", host)
    until(lambda: keyboard(desk) == [host], f"{host}'s new window has the keyboard")
    return made


@pytest.mark.qa("A05", simulated="both sides are this machine, and the desktop is sway in memory")
def test_texts_html_and_pictures_pass_both_ways(wayland: Place) -> None:
    web, thin = open_window(wayland, "web"), Desktop(wayland)
    picture = png(600, 400, rows=os.urandom(400 * 1801))
    text = "Grüße, 東京 🗼\n"
    for data, kind in ((text, _TEXT), ("y" * 1_000_000, _TEXT), ("<p>a <b>word</b></p>", "text/html"), (picture, "image/png")):
        target = "UTF8_STRING" if kind == _TEXT else kind
        thin.copy(data, kind)
        web.gets(data, target)
        back = data[:-3] if isinstance(data, str) else png(20, 30)
        back = "<p>back</p>" if kind == "text/html" else back
        web.copy(back, target)
        thin.gets(back, kind)
    assert thin.paste() == b""
    web.copy(text)
    thin.gets(text, "UTF8_STRING")
    thin.copy("x" * (MOST + 1))
    web.gets("")
    web.copy(b"\xff\x1b[201~rm\0")
    thin.gets("\ufffd[201~rm")
    assert [how for *_, how in log(wayland)].count("too large") == 1


def focus(desk: Place, sway: Screen, host: str) -> None:
    """Give a host's window the keyboard."""
    sway.tell(f'[title="\\({host}\\)$"] focus')
    until(lambda: keyboard(desk) == [host], f"{host}'s window has the keyboard")


@pytest.mark.qa("A05", simulated="both sides are this machine, and the desktop is sway in memory")
def test_a_copy_of_one_host_reaches_another_by_send_and_is_forgotten(wayland: Place, sway: Screen) -> None:
    web, thin = open_window(wayland, "web"), Desktop(wayland)
    vault = open_window(wayland, "vault")
    focus(wayland, sway, "web")
    web.copy("of web")
    thin.gets("of web")
    focus(wayland, sway, "vault")
    assert vault.paste() == b""
    done = wayland.tower("clipboard", "send", "vault")
    assert (done.returncode, done.stderr) == (0, "vault: its windows have what was copied on web\n")
    vault.gets("of web")
    assert wayland.tower("clipboard", "policy", "--clear", "1").returncode == 0
    thin.gets("")
    vault.gets("")
    vault.copy("of vault")
    thin.gets("of vault")
