# SPDX-License-Identifier: Apache-2.0
"""A host's applications in the menu: real `.desktop` files and icons, real launchers, and the windows that they open."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tower.menu import applications, entries, icon, png

from tests.conftest import CHECKOUT
from tests.integration.windows.conftest import COLOURS, Place, children
from tests.integration.windows.screen import colour
from tests.integration.windows.test_host import SHELLS
from tests.integration.windows.waiting import until

SCRIPT = (CHECKOUT / "runtime" / "menu" / "applications.sh").read_text()
READ = """\
import sys
from gi.repository import Gio
found = Gio.DesktopAppInfo.new_from_filename(sys.argv[1])
print([found.get_name(), found.get_commandline(), found.get_icon().to_string(), found.should_show()])
"""


@pytest.fixture
def menu(desk: Place, tmp_path: Path) -> Iterator[Path]:
    """The user's ~/.local/share after a refresh; `tower` is in the PATH."""
    program = desk.folder / "bin" / "tower"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-P", "-m", "tower"])} "$@"\n')
    program.chmod(0o755)
    done = tower(desk, "menu", "--refresh")
    assert done.returncode == 0, done.stderr
    yield desk.folder / "home/.local/share"
    for name in ("applications", "icons", "tower"):
        shutil.rmtree(desk.folder / "home/.local/share" / name)


def launching(desk: Place) -> Mapping[str, str]:
    """The environment of a launcher, which looks for `tower` in PATH."""
    return {**desk.environment, "PATH": f"{desk.folder}/bin:{os.environ['PATH']}"}


def tower(desk: Place, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "tower", *words]
    return subprocess.run(argv, env=desk.environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.qa("A02", simulated="both sides are this machine, GLib starts the entry, and the desktop is an X server in memory")
def test_an_entry_starts_its_application(desk: Place, menu: Path) -> None:
    entry = menu / "applications/tower-web.galculator.desktop"
    made = png.decode((menu / "icons/hicolor/64x64/apps/tower-web.galculator.png").read_bytes())
    drawn = png.decode(Path("/usr/share/icons/hicolor/48x48/apps/galculator.png").read_bytes())
    assert made == icon.framed(drawn, COLOURS["web"])
    assert made.pixels[4 * 32 :][:3] == bytes(colour(COLOURS["web"]))
    with subprocess.Popen(
        ["gio", "launch", entry], env=launching(desk), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        desk.window(r"galculator.*\(web\)|\(web\)")
        desk.picture(lambda found: found.share(colour(COLOURS["web"]), 60, 12, 100, 30) > 0.9, "an entry of the menu")
        number = desk.id()
        assert desk.run("--list", "web").stdout == f"web {number}  galculator, 0 min\n"
        desk.run("--stop", "web", number)
        assert started.wait(60) == 0
    until(lambda: desk.left() == [], "nothing is left")


def test_the_window_of_an_entry_loads_while_ssh_connects(desk: Place, menu: Path) -> None:
    os.kill(desk.server.pid, signal.SIGSTOP)  # the kernel takes the connections, and nobody answers
    try:
        window, command = desk.start("web", "galculator"), desk.start("web", "id", "-u")
        until(lambda: children(window, "tower.windows.viewer"), "a viewer loads")
        until(lambda: children(command, "ssh"), "ssh waits")
        assert not children(command, "tower.windows.viewer")
    finally:
        os.kill(desk.server.pid, signal.SIGCONT)
    assert command.communicate(timeout=60) == (b"0\n", b"")
    desk.window(r"galculator.*\(web\)|\(web\)")
    desk.run("--stop", "web", desk.id())
    window.wait(60)


def test_no_window_stays_for_a_program_that_only_the_menu_has(desk: Place, menu: Path, tmp_path: Path) -> None:
    entry = menu / "applications/tower-web.galculator.desktop"
    entry.with_name("tower-web.sh.desktop").write_text(entry.read_text().replace("-- galculator", "-- sh"))
    go = tmp_path / "go"
    os.mkfifo(go)
    shown = desk.start("web", "sh", "-c", f"echo begins; cat {go}")
    assert shown.stdout is not None
    assert shown.stdout.readline() == b"begins\n"
    assert not children(shown, "tower.windows.viewer")
    go.write_bytes(b"")
    assert shown.wait(60) == 0


def test_every_application_of_this_machine_is_there(desk: Place, menu: Path) -> None:
    wanted = {}
    for path in Path("/usr/share/applications").glob("*.desktop"):
        entry = entries.parse(path.stem, path.read_bytes())
        if entry is not None and shutil.which(entry.argv[0]):
            wanted[path.stem] = entry
    assert {"galculator", "org.xfce.mousepad", "debian-xterm"} <= set(wanted)
    for host in COLOURS:
        found = {path.name for path in (menu / "applications").glob(f"tower-{host}.*")}
        assert found == {f"tower-{host}.{id_}.desktop" for id_ in wanted}
    shown = json.loads(tower(desk, "menu", "--json").stdout)
    assert {one["id"]: one["name"] for one in shown["web"]} == {id_: f"{entry.name} (web)" for id_, entry in wanted.items()}
    for id_, entry in wanted.items():
        argv = ["/usr/bin/python3", "-c", READ, str(menu / f"applications/tower-web.{id_}.desktop")]
        said = subprocess.run(argv, env=launching(desk), capture_output=True, text=True, check=True, timeout=20).stdout
        line = entries.quoted(("tower", "run", "--window", "--tell", "web", "--", *entry.argv))
        picture = f"{menu}/icons/hicolor/64x64/apps/tower-web.{id_}.png"
        assert said == f"{[f'{entry.name} (web)', line, picture, True]!r}\n"


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
class TestScript:
    """The script that a host runs, on file systems of its own, in this machine's shell and in that of hosts."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "usr/share/applications").mkdir(parents=True)
        return tmp_path

    def run(self, root: Path, shell: tuple[str, ...], action: str, data: bytes = b"") -> list[tuple[str, str, bytes]]:
        script = SCRIPT.replace("/usr/", f"{root}/usr/")
        program = "/bin/sh" if shell == ("sh",) else "/bin/busybox"
        argv = [*shell, "-c", script, "sh", action]
        done = subprocess.run(argv, executable=program, input=data, capture_output=True, timeout=60, check=True)
        assert done.stderr == b""
        return list(applications.records(done.stdout, "web"))

    def test_files(self, root: Path, shell: tuple[str, ...]) -> None:
        place = root / "usr/share/applications"
        (place / "kde/deep").mkdir(parents=True)
        (root / "usr/local/share/applications").mkdir(parents=True)
        for path in (
            place / "a.desktop",
            place / "kde/b.desktop",
            place / "kde/deep/c.desktop",
            place / "d e.desktop",
            place / "f.txt",
        ):
            path.write_bytes(path.name.encode())
        (root / "usr/local/share/applications/a.desktop").write_bytes(b"own\nfile x 1\n\0")
        (place / "circle").symlink_to(place)
        (place / "loop.desktop").symlink_to("loop.desktop")
        (place / "link.desktop").symlink_to("a.desktop")
        (place / "zero.desktop").symlink_to("/dev/zero")
        (place / "folder.desktop").mkdir()
        (place / "empty.desktop").touch()
        (place / "large.desktop").write_bytes(b"x" * (entries.MOST + 1))
        (place / "line\nfile x 3\n.desktop").write_bytes(b"x")
        os.mkfifo(place / "pipe.desktop")
        assert self.run(root, shell, "entries") == [
            ("file", "a", b"own\nfile x 1\n\0"),
            ("file", "a", b"a.desktop"),
            ("file", "kde-b", b"b.desktop"),
            ("file", "kde-deep-c", b"c.desktop"),
            ("file", "link", b"a.desktop"),
        ]

    def test_no_files(self, root: Path, shell: tuple[str, ...]) -> None:
        shutil.rmtree(root / "usr")
        assert self.run(root, shell, "entries") == []
        assert self.run(root, shell, "icons") == []
        assert self.run(root, shell, "icons", b"0 cat - cat\n") == [("icon", "0", b"")]

    def test_menu_entries_stop_at_500_files_and_8_mebibytes(self, root: Path, shell: tuple[str, ...]) -> None:
        place = root / "usr/share/applications"
        for number in range(600):
            (place / f"a{number:03}.desktop").write_bytes(b"x" * (100_000 if number < 90 else 10))
        found = self.run(root, shell, "entries")
        assert sum(len(data) for _, _, data in found) <= 8 << 20
        assert len(found) == 500 - 90 + (8 << 20) // 100_000

    def test_icons(self, root: Path, shell: tuple[str, ...]) -> None:
        icons = root / "usr/share/icons/hicolor"
        for size in ("16x16", "48x48", "256x256"):
            (icons / size / "apps").mkdir(parents=True)
            (icons / size / "apps/a.png").write_bytes(size.encode())
        (icons / "16x16/apps/small.png").write_bytes(b"small")
        (icons / "48x48/apps/large.png").write_bytes(b"x" * (png.MOST + 1))
        (icons / "48x48/apps/zero.png").symlink_to("/dev/zero")
        (icons / "48x48/apps/loop.png").symlink_to("loop.png")
        (root / "usr/share/pixmaps").mkdir()
        (root / "usr/share/pixmaps/p.png").write_bytes(b"icon 0 4\n\0\n")
        asked = ("cat - a", "cat - small", "cat - large", "cat - zero", "cat - loop", "cat - p", "cat - none", "cat - -")
        more = (
            f"cat - {root}/usr/share/pixmaps/p.png",
            "cat - /etc",
            "cat - /nothing.png",
            "no-such - a",
            "cat no-such a",
            "/bin/sh cat a",
        )
        lines = "".join(f"{number} {line}\n" for number, line in enumerate((*asked, *more)))
        contents = [
            b"48x48",
            b"small",
            b"",
            b"",
            b"",
            b"icon 0 4\n\0\n",
            b"",
            b"",
            b"icon 0 4\n\0\n",
            b"",
            b"",
            None,
            None,
            b"48x48",
        ]
        expected = [("gone" if data is None else "icon", str(number), data or b"") for number, data in enumerate(contents)]
        assert self.run(root, shell, "icons", lines.encode()) == expected


def test_an_entry_that_cannot_start_its_application_says_so_in_a_window(desk: Place) -> None:
    for words, said in ((("no-such-host", "--", "x"), "no-such-host"), (("web", "--", "no-such-program"), "web")):
        running = desk.start("--window", "--tell", *words)
        title = f"^tower run: {said}$"
        desk.window(title)
        argv = ["xdotool", "search", "--onlyvisible", "--name", title, "windowfocus", "key", "Escape"]

        def closed() -> bool:
            # Nothing manages the windows of this screen, so that a new one may get the keyboard late.
            subprocess.run(argv, env=desk.environment, capture_output=True, timeout=20, check=False)  # noqa: B023
            return running.poll() is not None  # noqa: B023

        until(closed, "the message is closed")
        assert running.wait(60) in (11, 17)
        assert running.stderr is not None
        assert said in running.stderr.read().decode()
    until(lambda: desk.left() == [], "nothing is left")
