# SPDX-License-Identifier: Apache-2.0
"""The hosts' applications in the user's menu: which files there are, and what becomes of them."""

from __future__ import annotations

import json
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import DownError, GarbageError, RemoteError
from tower.base.proc import Done
from tower.base.view import View
from tower.cli import main
from tower.cli.commands import install
from tower.clipboard import policy
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Tower
from tower.install import menu_refresh as refreshed
from tower.install.outcome import Outcome
from tower.menu import applications, entries, icon, png
from tower.menu import desktop_files as menu
from tower.menu.applications import Application
from tower.menu.desktop_files import Change, Menu, labwc_menu
from tower.menu.entries import Entry
from tower.windows import loudness
from tower.windows.loudness import Loudness

from tests.unit.runtime.test_sshconf import add

PICTURE = png.Picture(48, 48, b"\xff\0\0\xff" * 48**2)
SPECIFIC = {"web": "#4363d8", "vault": "#f58231"}


def desktop(name: str, command: str, *more: str) -> bytes:
    return "".join(
        f"{line}\n" for line in ("[Desktop Entry]", "Type=Application", f"Name={name}", f"Exec={command}", *more)
    ).encode()


class Host:
    """What a host would answer, and what it was asked."""

    def __init__(self, host: Any, files: Mapping[str, bytes], icons: Mapping[str, bytes]) -> None:
        self.host, self.files, self.icons = host, files, icons
        self.missing: set[str] = set()
        self.asked: list[str] = []
        self.answers: dict[str, bytes] = {}

    def run(self, argv: list[str], *, stdin: bytes, **_how: object) -> Done:
        action = argv[-1]
        if action in self.answers:
            return Done(0, self.answers[action], b"")
        made = b""
        if action == "entries":
            made = b"".join(b"file %b %d\n%b" % (name.encode(), len(data), data) for name, data in self.files.items())
        for line in stdin.decode().splitlines():
            number, program, tried, name = line.split(" ")
            self.asked.append(line)
            if self.missing & {program, tried}:
                made += f"gone {number}\n".encode()
            else:
                data = self.icons.get(name, b"")
                made += b"icon %b %d\n%b" % (number.encode(), len(data), data)
        return Done(0, made + b"end\n", b"")


FILES = {
    "galculator": desktop("Galculator", "galculator", "Icon=galculator", "Categories=Utility;"),
    "org.example.Editor": desktop("Editor", '/opt/editor "a word" %U', "TryExec=editor", "Icon=/opt/editor.png"),
    "hidden": desktop("Hidden", "hidden", "NoDisplay=true"),
    "broken": desktop("Broken", "broken 'x'"),
}


@pytest.fixture
def both(tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch) -> dict[str, Host]:
    """Two hosts, as what connects to them finds them."""
    found = {}
    for name in SPECIFIC:
        add(tower, settings, name)
        files = FILES if name == "web" else {"galculator": FILES["galculator"]}
        found[name] = Host(tower.host(name), files, {"galculator": png.encode(PICTURE)})  # type: ignore[arg-type]

    @contextmanager
    def connect(_tower: Tower, host: Any, **_how: object) -> Iterator[Host]:
        if host.name not in found:
            raise DownError(f"{host.name}: no answer", hint="is it on?")
        yield found[host.name]

    monkeypatch.setattr(refreshed, "connect", connect)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    return found


def files(home: Path) -> dict[str, bytes]:
    share = home / ".local/share"
    return {str(path.relative_to(share)): path.read_bytes() for path in share.rglob("*") if path.is_file()}


ICONS = "icons/hicolor/64x64/apps"


def test_a_refresh_makes_entries_and_icons_of_the_hosts_answers(
    both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["menu"]) == 0
    assert capsys.readouterr().out == "vault  none\nweb    none\n"
    assert main.main(["menu", "--refresh", "--dry-run"]) == 0
    assert "added: org.example.Editor, galculator" in capsys.readouterr().out
    assert not (home / ".local/share").exists()

    assert main.main(["menu", "--refresh"]) == 0
    said = capsys.readouterr()
    assert said.out == "vault  1 in the menu; added: galculator\nweb    2 in the menu; added: org.example.Editor, galculator\n"
    assert "web: broken.desktop is left out: Exec: \"'x'\" has characters that must be quoted" in said.err
    found = files(home)
    names = [f"tower-{name}" for name in ("vault.galculator", "web.galculator", "web.org.example.Editor")]
    made = {f"applications/{name}.desktop" for name in names} | {f"{ICONS}/{name}.png" for name in names}
    assert set(found) == made | {"tower/menu.xml", "tower/.lock"}
    assert found["applications/tower-web.org.example.Editor.desktop"].decode() == (
        "[Desktop Entry]\nType=Application\nVersion=1.5\nName=Editor (web)\nComment=An application of the host web\n"
        'Exec=tower run --window --tell web -- /opt/editor "a word"\n'
        f"Icon={home}/.local/share/{ICONS}/tower-web.org.example.Editor.png\nTerminal=false\nX-Tower-Host=web\n"
    )
    for name in made | {"tower/menu.xml"}:
        assert stat.S_IMODE((home / ".local/share" / name).stat().st_mode) == 0o644
    picture = png.decode(found[f"{ICONS}/tower-web.galculator.png"])
    colour = bytes.fromhex(both["web"].host.env.color[1:]) + b"\xff"
    assert (picture.width, picture.pixels[4 * 32 :][:4]) == (64, colour)
    assert picture.pixels[4 * (32 * 64 + 32) :][:4] == b"\xff\0\0\xff"
    assert found[f"{ICONS}/tower-web.org.example.Editor.png"] == png.encode(icon.tile("E", both["web"].host.env.color))
    assert both["web"].asked[:2] == ["0 galculator - galculator", "1 /opt/editor editor /opt/editor.png"]

    assert main.main(["menu", "web", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "web": [
            {
                "id": "galculator",
                "name": "Galculator (web)",
                "command": ["tower", "run", "--window", "--tell", "web", "--", "galculator"],
            },
            {
                "id": "org.example.Editor",
                "name": "Editor (web)",
                "command": ["tower", "run", "--window", "--tell", "web", "--", "/opt/editor", "a word"],
            },
        ]
    }


def test_entries_follow_the_packages(both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["menu", "--refresh"]) == 0
    before = files(home)
    assert main.main(["menu", "--refresh", "--json"]) == 0
    capsys.readouterr()
    assert files(home) == before
    # One that lost its program, one with a new icon, and one that is new.
    both["web"].missing = {"editor"}
    both["web"].icons = {}
    both["vault"].files = {}
    both["web"].files = {**FILES, "new": desktop("New", "new")}
    assert main.main(["menu", "--refresh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "vault": {"added": [], "changed": [], "removed": ["galculator"], "kept": []},
        "web": {"added": ["new"], "changed": ["galculator"], "removed": ["org.example.Editor"], "kept": []},
    }
    assert main.main(["menu"]) == 0
    assert capsys.readouterr().out == "vault  none\nweb    Galculator, New\n"
    assert not [name for name in files(home) if "vault" in name or "Editor" in name]


def test_files_of_others_stay(both: dict[str, Host], home: Path) -> None:
    place = home / ".local/share/applications"
    place.mkdir(parents=True)
    own = {"tower-web.galculator.desktop", "tower-web.mine.desktop", "tower-web2.a.desktop", "tower.desktop", "firefox.desktop"}
    for name in own:
        (place / name).write_bytes(desktop("Mine", "mine"))
    (place / "tower-web.link.desktop").symlink_to("firefox.desktop")
    assert main.main(["menu", "--refresh"]) == 0
    assert main.main(["deprovision", "web", "--yes"]) == 0
    assert {path.name for path in place.iterdir()} == own | {"tower-web.link.desktop", "tower-vault.galculator.desktop"}
    assert all((place / name).read_bytes() == desktop("Mine", "mine") for name in own)


def test_a_host_whose_name_begins_like_another(home: Path) -> None:
    place = menu.menu_of_user()
    one = Application(Entry("a", "A", ("a",)), png.encode(icon.tile("A", "#000000")))
    for host in ("web", "web-2", "web-2-a"):
        place.put(host, [one])
    assert place.hosts() == ["web", "web-2", "web-2-a"]
    assert place.forget("web") == ("a",)
    assert place.hosts() == ["web-2", "web-2-a"]
    assert place.forget("web") == ()


def test_a_refresh_removes_all_files_of_a_host_that_is_gone(
    both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Application(Entry("a", "A", ("a",)), png.encode(icon.tile("A", "#000000")))
    menu.menu_of_user().put("old", [one])
    (home / ".local/share/applications/tower-old.a.desktop").unlink()
    assert menu.menu_of_user().hosts() == ["old"], "its icon is there"
    assert main.main(["menu", "--refresh"]) == 0
    assert "old    0 in the menu; removed: a" in capsys.readouterr().out
    assert not [name for name in files(home) if "old" in name]


def test_hosts_that_do_not_answer(both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["menu", "--refresh"]) == 0
    before = files(home)
    del both["vault"]
    assert main.main(["menu", "--refresh", "--json"]) == 15
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["vault"] == {"error": "vault: no answer"}
    assert "tower menu: vault: no answer" in said.err
    assert files(home) == before
    assert main.main(["menu", "--refresh", "other"]) == 11


@pytest.mark.parametrize("how", ["down", "garbage", "no room"])
def test_a_failed_menu_refresh_is_only_reported(
    both: dict[str, Host], home: Path, tower: Tower, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "down":
        del both["web"]
    elif how == "garbage":
        both["web"].answers["entries"] = b"\x1b[2J"
    else:
        (home / ".local/share").write_text("")
    refreshed.refresh_after(tower, ["thinclient", "web", "vault"], View())
    said = capsys.readouterr().err
    assert "web: the menu was not refreshed: " in said
    assert "hint: tower menu --refresh web" in said
    assert "\x1b" not in said
    assert ("vault: new in the menu: galculator" in said) == (how != "no room")


def test_forgetting_a_host_forgets_its_entries(both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["menu", "--refresh"]) == 0
    assert main.main(["deprovision", "web", "--yes"]) == 0
    assert {name.partition(".")[0] for name in files(home) if "/tower-" in name} == {
        "applications/tower-vault",
        f"{ICONS}/tower-vault",
    }
    assert b"web" not in files(home)["tower/menu.xml"]
    (home / ".local/share/tower/.lock").unlink()
    (home / ".local/share/tower/.lock").mkdir()
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    assert "vault: its entries in the menu stay: " in capsys.readouterr().err
    assert not (home / ".local/tower/hosts/vault").exists()


def test_a_new_host_of_a_forgotten_ones_name_gets_nothing_of_it(
    both: dict[str, Host], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = home / ".local/tower"
    for words in (
        ("volume", "web", "40"), ("volume", "vault", "mute"),
        ("clipboard", "policy", "vault", "web", "on"), ("clipboard", "policy", "thinclient", "vault", "off"),
    ):  # fmt: skip
        assert main.main(words) == 0
    assert main.main(["deprovision", "web", "--yes"]) == 0
    assert loudness.read(kept / "sound.json") == {"vault": Loudness(muted=True)}
    assert policy.read(kept / "clipboard").pairs == {("thinclient", "vault"): policy.Rule.OFF}
    (kept / "clipboard/policy.json").write_text("{")
    (kept / "sound.json").write_text("{")
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "vault: its rules of the clipboard stay: " in said
    assert "vault: its volume stays: " in said
    assert not (kept / "hosts/vault").exists()


# --- hosts that are hostile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"end", b"end\nend\n", b"end\nmore", b"file a 1\nend\n", b"file a 9999999\nend\n",
        b"file a 12345678\nend\n", b"file a -1\nend\n", b"file a 01\nxend\n", b"file ../a 0\nend\n",
        b"file a\0 0\nend\n", b"file  0\nend\n", b"gone a 3\nabcend\n", b"icon a\nend\n",
        b"file " + b"a" * 300 + b" 0\nend\n", b"file a 0\r\nend\n", b"\x1b]0;x\x07end\n", b"file a 0\n" * 10,
    ],
)  # fmt: skip
def test_invalid_answers_are_refused(both: dict[str, Host], data: bytes) -> None:
    both["web"].answers["entries"] = data
    with pytest.raises(GarbageError):
        applications.find(both["web"])  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"icon 9 0\nend\n", b"icon 0 0\nicon 0 0\nend\n", b"icon x 0\nend\n", b"gone 0\ngone 0\nend\n"])
def test_icons_that_nobody_asked_for(both: dict[str, Host], data: bytes) -> None:
    both["web"].answers["icons"] = data
    with pytest.raises(GarbageError, match="nobody asked for"):
        applications.find(both["web"])  # type: ignore[arg-type]


def test_a_script_that_fails(both: dict[str, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both["web"], "run", lambda *_, **__: Done(127, b"", b"sh: \x1b[2J not found"))
    with pytest.raises(RemoteError, match=r"exit status 127\n  sh: \?\[2J not found"):
        applications.find(both["web"])  # type: ignore[arg-type]


def test_no_more_than_fit_into_a_menu(both: dict[str, Host]) -> None:
    both["web"].files = {f"a{number}": desktop(f"A{number}", "a") for number in range(450)}
    found = applications.find(both["web"])  # type: ignore[arg-type]
    assert (len(found.applications), len(found.left_out)) == (applications.MOST, 250)


def test_the_first_file_of_a_name_counts(both: dict[str, Host]) -> None:
    twice = (
        b"file a 70\n" + desktop("First", "first").ljust(70) + b"file a 70\n" + desktop("Second", "second").ljust(70) + b"end\n"
    )
    both["web"].answers["entries"] = twice
    assert [one.entry.name for one in applications.find(both["web"]).applications] == ["First"]  # type: ignore[arg-type]


def test_pictures_do_not_take_for_ever(both: dict[str, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    both["web"].files = {f"a{number}": desktop(f"A{number}", "a", "Icon=galculator") for number in range(50)}
    monkeypatch.setattr(applications, "_MOST_SECONDS", 0.0)
    found = applications.find(both["web"])  # type: ignore[arg-type]
    assert len({one.icon for one in found.applications}) == 2, "the first one, and ours"


@pytest.mark.parametrize(
    "bad",
    [b"", b"x", png.encode(PICTURE)[:-20], b"<svg/>", struct.pack(">8sI4s", b"\x89PNG\r\n\x1a\n", 0xFFFFFFFF, b"IHDR") * 99],
)
def test_an_icon_that_cannot_be_read_is_replaced(both: dict[str, Host], bad: bytes) -> None:
    both["vault"].icons = {"galculator": bad}
    found = applications.find(both["vault"])  # type: ignore[arg-type]
    assert [one.icon for one in found.applications] == [png.encode(icon.tile("G", both["vault"].host.env.color))]


def test_names_of_hosts_applications_break_nothing(both: dict[str, Host], home: Path) -> None:
    names = ["A<b>&amp;</b>", 'A"onclick="x', "A\\nExec=reboot", "A\u202e\x07", "A]]>", "A (vault)", "A" * 500]
    both["web"].files = {f"a{number}": desktop(name, 'a "<&>" 50%%') for number, name in enumerate(names)}
    assert main.main(["menu", "--refresh", "web"]) == 0
    made = [data.decode() for name, data in files(home).items() if name.endswith(".desktop")]
    assert len(made) == len(names)
    for text in made:
        keys = [line.partition("=")[0] for line in text.splitlines()]
        assert keys == ["[Desktop Entry]", "Type", "Version", "Name", "Comment", "Exec", "Icon", "Terminal", "X-Tower-Host"]
        assert '\nExec=tower run --window --tell web -- a "<&>" 50%%\n' in text
        assert text.splitlines()[3].endswith(" (web)")
        assert all(line.isprintable() for line in text.splitlines())
    items = ElementTree.fromstring(files(home)["tower/menu.xml"]).findall("item")
    assert len(items) == len(names)
    assert all(item.attrib["label"].startswith("A") and item.attrib["label"].endswith(" (web)") for item in items)
    assert {item[0].attrib["command"] for item in items} == {"tower run --window --tell web -- a '<&>' 50%"}


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4))
def test_the_menu_of_labwc_is_xml(names: list[str]) -> None:
    shown = [
        menu.MenuEntry("web", "a", f"{entries.clean(name)} (web)", ("tower", "run", "web", "--", "a", "<'"), Path("/a/<&\"'"))
        for name in names
    ]
    found = ElementTree.fromstring(labwc_menu(shown))
    assert [one.tag for one in found] == ["separator"] + ["item"] * len(names)
    assert sorted(one.attrib["label"] for one in found[1:]) == sorted(one.name for one in shown)


def test_an_empty_menu_says_how_to_fill_it() -> None:
    assert "tower menu --refresh" in ElementTree.fromstring(labwc_menu([]))[0].attrib["label"]


def test_a_home_that_no_entry_can_name(tmp_path: Path) -> None:
    place = Menu(tmp_path / "a\nb")
    one = Application(Entry("a", "A", ("a",)), png.encode(icon.tile("A", "#000000")))
    assert place.put("web", [one]) == Change(added=("a",))
    assert b"\nIcon=tower-web.a\n" in (tmp_path / "a\nb/applications/tower-web.a.desktop").read_bytes()
    ElementTree.fromstring((tmp_path / "a\nb/tower/menu.xml").read_bytes())


# --- when it is refreshed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "steps", "entries_of"),
    [
        (["web"], {"web": ("Installing galculator (1-r0)",)}, {"web"}),
        (["web,vault"], {"web": ("Installing galculator (1-r0)",)}, {"web"}),
        (["web,vault"], {"web": ("Installing a (1-r0)",), "vault": ("Installing a (1-r0)",)}, {"web", "vault"}),
        (["web", "--dry-run"], {"web": ("Installing galculator (1-r0)",)}, set()),
        (["web"], {"web": ()}, set()),
        (["thinclient"], {"thinclient": ("Installing mpv (1-r0)",)}, set()),
    ],
)
def test_an_installation_refreshes_the_hosts_that_it_changed(
    both: dict[str, Host],
    home: Path,
    words: list[str],
    steps: dict[str, tuple[str, ...]],
    entries_of: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = set(words[0].split(",")) - set(steps)
    report = Outcome(("galculator",), dict(steps), {name: DownError(f"{name}: no answer") for name in asked})
    monkeypatch.setattr(install, "install_by_choice", lambda *_, **__: report)
    assert main.main(["install", *words[1:], words[0], "galculator", "--yes", "--json"]) == (15 if asked else 0)
    said = capsys.readouterr()
    assert set(json.loads(said.out)["hosts"]) == set(steps) | asked
    assert set(menu.menu_of_user().hosts()) == entries_of
    for name in entries_of:
        assert f"{name}: new in the menu: " in said.err


def test_a_failed_refresh_does_not_change_the_status(
    both: dict[str, Host], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del both["web"]
    report = Outcome(("galculator",), {"web": ("Installing galculator (1-r0)",)})
    monkeypatch.setattr(install, "install_by_choice", lambda *_, **__: report)
    assert main.main(["install", "web", "galculator", "--yes"]) == 0
    said = capsys.readouterr()
    assert said.out == "web  galculator: installed, 1 steps\n"
    assert "web: the menu was not refreshed: web: no answer\n  hint: tower menu --refresh web\n" in said.err
