# SPDX-License-Identifier: Apache-2.0
"""`tower install`: names, servers, what is noted, and the talk with a machine's `packages`, whatever that says."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower.base.errors import GarbageError, HostError, LostError, PackageError, StateError, TowerError, ValueRefusedError
from tower.base.view import View
from tower.cli.commands.install import execute
from tower.hosts.registry import Tower
from tower.install import apk, servers
from tower.install.apk import Talk, clean, words_of
from tower.install.install import _through, install, parse_names
from tower.install.repository import parse_repositories
from tower.install.wanted import read_wanted, record_wanted


@contextmanager
def talk(said: bytes, *, status: int = 0, error: str = "", alive: bool = True) -> Iterator[tuple[Talk, list[str], list[object]]]:
    """A talk with a program that says what it is told to, and then ends."""
    code = "import sys; _, said, error, status = sys.argv; sys.stdout.buffer.write(bytes.fromhex(said)); "
    code += "sys.stderr.write(error); sys.exit(int(status))"
    argv = [sys.executable, "-S", "-c", code, said.hex(), error, str(status)]
    shown: list[str] = []
    told: list[object] = []
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as child:
        yield Talk("web", child, lambda: alive, shown.append, lambda *bytes_: told.append(bytes_), told.append), shown, told


GOOD = b"""\
tower undone old
tower installed earlier more
apk fetch http://x/APKINDEX.tar.gz
apk (1/2) Installing library (1.0-r0)
apk (2/2) Upgrading editor (1.0-r0 -> 2.0-r0)
apk OK: 1 MiB in 2 packages
tower planned
apk (1/2) Installing library (1.0-r0)
apk 0/300
apk 150/300 install
apk \x1b[2J\xffhello
tower installed editor
"""


def test_a_talk() -> None:
    with talk(GOOD) as (one, shown, told):
        one.ask(["name x", "repository http://x:1/"])
        assert one.steps == ["Installing library (1.0-r0)", "Upgrading editor (1.0-r0 -> 2.0-r0)"]
        assert told == [("earlier", "more")]
        one.go()
    assert told[1:] == [(0, 300), (150, 300)]
    assert shown[:2] == ["web: undone: old", "web: an earlier installation was finished without us: earlier more"]
    assert shown[-1] == "web: ?[2J?hello".replace("?hello", "\N{REPLACEMENT CHARACTER}hello")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"apk ERROR: x\ntower failed these packages cannot be installed\n", PackageError, "ERROR: x"),
        (b"tower failed there is no room on the disk of this machine\n", PackageError, "df -h"),
        (b"tower failed another installation is under way\n", PackageError, "wait for it"),
        (b"tower failed the repositories cannot be read\n", PackageError, "tower status router"),
        (b"hello\n", GarbageError, "hello"),
        (b"tower reboots\n", GarbageError, "reboots"),
        (b"tower installed --rm -rf\n", GarbageError, "--rm"),
        (b"tower plan", PackageError, "ended with status 3"),
        (b"", PackageError, "ended with status 3"),
    ],
)
def test_a_talk_that_goes_wrong(said: bytes, kind: type[TowerError], words: str) -> None:
    with talk(said, status=3) as (one, _, _), pytest.raises(kind) as caught:
        one.ask([])
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_talk_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apk, "_MOST_SAID", 10_000)
    with (
        talk(b"apk (1/1) Installing a (1)\n" * 1000) as (one, _, _),
        pytest.raises(GarbageError, match=r"10000 bytes, more than any"),
    ):
        one.ask([])
    monkeypatch.setattr(apk, "_MOST_LINE", 9_000)
    with talk(b"x" * 9_500) as (one, _, _), pytest.raises(GarbageError, match="a line of more than 9000 bytes"):
        one.ask([])


def test_a_long_line_is_heard_whole_and_its_end_is_not_left_out_silently() -> None:
    said = b"apk " + b"x" * 30_000 + b"\napk (1/1) Installing a (1)\ntower planned\n"
    with talk(said) as (one, shown, _):
        one.ask([])
    assert one.steps == ["Installing a (1)", "x" * 30_000]
    assert shown[0] == f"web: {'x' * 4096}... (30000 characters)"


def test_a_talk_that_breaks_off() -> None:
    with talk(b"", status=255, alive=False) as (one, _, _), pytest.raises(LostError, match="the connection broke"):
        one.ask([])
    with talk(b"", status=127, error="doas: not found") as (one, _, _), pytest.raises(PackageError) as caught:
        one.ask([])
    assert "tower upgrade web" in caught.value.hint


_LINE = st.one_of(
    st.sampled_from(
        [b"tower planned", b"tower installed a", b"tower undone", b"tower failed x", b"apk 1/2", b"apk (1/1) Installing a (1)"]
    ),
    st.binary(max_size=40),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_LINE, max_size=8).map(b"\n".join), st.booleans())
def test_whatever_a_machine_says_is_an_error_or_an_answer(said: bytes, alive: bool) -> None:
    with talk(said, alive=alive) as (one, shown, _):
        try:
            one.ask([])
            one.go()
        except TowerError as error:
            assert error.message.replace("\n", "").isprintable()
    assert all(line.isprintable() for line in shown)


@given(st.binary(max_size=200))
def test_a_line_for_a_terminal_has_no_control_sequences(data: bytes) -> None:
    assert clean(data).isprintable()


@pytest.mark.parametrize("text", ["-x", "a;b", "a $(id)", "../x", "a\tb\x00", "x.apk", "A" * 300])
def test_invalid_package_names_of_a_machine_are_refused(text: str) -> None:
    with pytest.raises(GarbageError):
        words_of(text, "web")


def test_installed_packages_are_recorded_once_by_name(tmp_path: Path) -> None:
    file = tmp_path / "world"
    assert read_wanted(file) == ()
    record_wanted(file, ["nano>=8", "firefox"])
    record_wanted(file, ["nano", "a~1", "b=2-r0", "c@edge"])
    assert file.read_text() == "a~1\nb=2-r0\nc@edge\nfirefox\nnano\n"
    assert file.stat().st_mode & 0o777 == 0o600
    record_wanted(file, ["c"])
    assert read_wanted(file) == ("a~1", "b=2-r0", "c", "firefox", "nano")
    file.write_text("nano\n--allow-untrusted\n")
    with pytest.raises(StateError, match="allow-untrusted"):
        read_wanted(file)


def test_the_machines_of_a_command_line() -> None:
    assert parse_names("web,vault,thinclient") == ("web", "vault", "thinclient")
    for text in ("", "web,", ",web", "web,web", "We b", "-x", "all"):
        with pytest.raises(ValueRefusedError):
            parse_names(text)


LINES = """\
# comment
https://mirror.example/alpine/v3.24/main
@edge http://mirror.example:8080/edge
/media/usb/apks
https://user:secret@mirror.example/x
ftp://mirror.example/x
http://other.example/
"""


def test_a_repository_through_a_tunnel_keeps_its_name_its_path_and_its_tag() -> None:
    found, left_out = parse_repositories(LINES)
    ports = {("mirror.example", 443): 1001, ("mirror.example", 8080): 1002, ("other.example", 80): 1003}
    assert servers.servers_of(found) == tuple(ports)
    assert [_through(one, ports) for one in found] == [
        "https://mirror.example:1001/alpine/v3.24/main",
        "@edge http://mirror.example:1002/edge",
        "http://other.example:1003",
    ]
    assert len(left_out) == 3


def test_only_servers_that_are_known_here(tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_OWN", tmp_path)
    (tmp_path / "repositories").write_text("https://own.example/main\n")
    tower.folder.mkdir(parents=True)

    def check(*lines: str, allowed: tuple[tuple[str, int], ...] = ()) -> None:
        found, _ = parse_repositories("\n".join(lines))
        servers.check_servers(tower, "web", found, View(), allowed=allowed, yes=True)

    check("https://own.example/main", "https://own.example/community")
    for line in ("http://own.example/main", "https://evil.example/main", "https://own.example.evil.example/main"):
        with pytest.raises(ValueRefusedError, match="does not know"):
            check("https://own.example/main", line)
    with pytest.raises(HostError):
        check("/media/usb")
    for line in ("http://127.0.0.1/x", "https://2130706433/x", "http://0x7f.1/x", "http://127.1/x", "https://own.example:22/x"):
        with pytest.raises(ValueRefusedError, match=r"no name|port 22"):
            check(line, allowed=(("127.0.0.1", 80), ("own.example", 22)))
    check("https://named.example/main", allowed=(servers.parse_server("named.example"),))
    check("https://named.example/main")
    for text in ("", "a b", "x/y", "user@x", "x:99999", "-x"):
        with pytest.raises(ValueRefusedError):
            servers.parse_server(text)


def test_an_invalid_name_touches_no_host(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueRefusedError, match="--allow-untrusted"):
        install(tower, ["web"], ["--allow-untrusted"], View())
    args = argparse.Namespace(
        json=False, server=["a b"], hosts="web", packages=["x"], yes=True, dry_run=False, bundle=False, tunnel=True
    )
    with pytest.raises(ValueRefusedError, match="a b"):
        execute(args)


def test_the_reason_is_read_after_a_machine_has_ended() -> None:
    with talk(b"tower failed x: is not the name of a package\n", status=2) as (one, _, _):
        one.child.wait()
        with pytest.raises(PackageError, match="is not the name of a package"):
            one.ask(["name x"])
