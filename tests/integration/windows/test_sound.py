# SPDX-License-Identifier: Apache-2.0
"""The sound of hosts' applications: a real sound server, real programs, and the filter between them."""

from __future__ import annotations

import itertools
import math
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.windows import sound
from tower.windows.loudness import Loudness
from tower.windows.pulse import COOKIE_BYTES

from tests.integration.windows.conftest import Place, children
from tests.integration.windows.waiting import until

RATE, SECONDS, HERTZ = 44100, 1.5, 440
NAME = "player (web)"
FORM = ("--raw", "--format=s16le", f"--rate={RATE}", "--channels=1")


@dataclass
class Server:
    """A sound server without a card, and the folder of its user."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "native"

    @property
    def environment(self) -> Mapping[str, str]:
        """That of a program of the desktop."""
        cookie = str(self.folder / "cookie")
        return {**os.environ, "HOME": str(self.folder), "PULSE_SERVER": f"unix:{self.socket}", "PULSE_COOKIE": cookie}

    def run(self, *argv: str) -> str:
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=True, timeout=20).stdout

    @contextmanager
    def recorded(self, file: Path) -> Iterator[None]:
        """Record what it plays."""
        argv = ["parec", "-d", "out.monitor", *FORM, "--latency-msec=50"]
        with file.open("wb") as out, subprocess.Popen(argv, env=self.environment, stdout=out) as child:
            try:
                until(lambda: file.stat().st_size > 0, "a recording")
                yield
            finally:
                child.terminate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    missing = [name for name in ("pulseaudio", "pacat", "parec", "pactl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    made = Server(tmp_path_factory.mktemp("sound"))
    (made.folder / "cookie").write_bytes(secrets.token_bytes(COOKIE_BYTES))
    argv = [
        "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disallow-exit",
        f"--load=module-native-protocol-unix socket={made.socket} auth-cookie={made.folder}/cookie auth-group-enable=0",
        "--load=module-null-sink sink_name=out",
    ]  # fmt: skip
    env = {**os.environ, "HOME": str(made.folder), "XDG_RUNTIME_DIR": str(made.folder)}
    with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as child:
        try:
            until(made.socket.is_socket, "a sound server")
            yield made
        finally:
            child.terminate()


@pytest.fixture
def desktop(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """This process is of the desktop of that server."""
    for name in ("HOME", "PULSE_SERVER", "PULSE_COOKIE"):
        monkeypatch.setenv(name, server.environment[name])
    return server


@pytest.fixture
def host(desktop: Server, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The environment of an application of a host."""
    cookie = secrets.token_bytes(COOKIE_BYTES)
    (tmp_path / "cookie").write_bytes(cookie)
    with sound.listening(desktop.socket, NAME, cookie) as port:
        yield {
            **os.environ, "HOME": str(tmp_path), "PULSE_SERVER": f"tcp:127.0.0.1:{port}",
            "PULSE_COOKIE": str(tmp_path / "cookie"),
        }  # fmt: skip


def sine() -> bytes:
    return b"".join(
        struct.pack("<h", round(20000 * math.sin(2 * math.pi * HERTZ * place / RATE))) for place in range(int(RATE * SECONDS))
    )


def heard(file: Path) -> tuple[float, float]:
    """The length in seconds and the frequency in hertz of what is not silence."""
    data = file.read_bytes()
    samples = struct.unpack(f"<{len(data) // 2}h", data[: len(data) // 2 * 2])
    window = RATE // 100
    loud = sum(max(map(abs, samples[start : start + window])) > 2000 for start in range(0, len(samples), window))
    rising = [place for place, (one, other) in enumerate(itertools.pairwise(samples)) if one < 0 <= other]
    # A busy machine makes gaps.
    waves = [other - one for one, other in itertools.pairwise(rising)]
    return loud / 100, RATE / statistics.median(waves) if waves else 0.0


def run(env: Mapping[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=30)


def check_tone(file: Path, within: float = 0.1) -> None:
    """Check that the tone was heard, as long as it is; `within` is in seconds."""
    length, frequency = heard(file)
    assert length == pytest.approx(SECONDS, abs=within)
    assert frequency == pytest.approx(HERTZ, rel=0.02)


@pytest.mark.qa("A06", simulated="a player in place of a browser")
def test_a_tone_of_the_host_is_heard(server: Server, host: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "tone").write_bytes(sine())
    with server.recorded(tmp_path / "heard"):
        assert run(host, "pacat", *FORM, str(tmp_path / "tone")).returncode == 0
    check_tone(tmp_path / "heard")


def test_a_host_is_as_loud_as_its_setting_also_while_it_plays(desktop: Server, tmp_path: Path) -> None:
    cookie, now = secrets.token_bytes(COOKIE_BYTES), Loudness(50)
    (tmp_path / "cookie").write_bytes(cookie)
    (tmp_path / "tone").write_bytes(sine() * 20)
    with sound.listening(desktop.socket, NAME, cookie, lambda: now) as port:
        env = {
            **os.environ,
            "HOME": str(tmp_path),
            "PULSE_SERVER": f"tcp:127.0.0.1:{port}",
            "PULSE_COOKIE": str(tmp_path / "cookie"),
        }

        def state() -> tuple[int, bool]:
            said = desktop.run("pactl", "list", "sink-inputs")
            found = re.search(r"Mute: (yes|no)\n\tVolume: [^/]*/ +(\d+)%", said)
            return (int(found[2]), found[1] == "yes") if found else (-1, False)

        with subprocess.Popen(["pacat", *FORM, tmp_path / "tone"], env=env) as player:
            until(lambda: state() == (50, False), "half as loud")
            now = Loudness(20, muted=True)
            until(lambda: state() == (20, True), "muted")
            now = Loudness()
            until(lambda: state() == (100, False), "as loud as it is")
            player.terminate()


@pytest.mark.parametrize(
    "words",
    [
        ("parec", "-d", "out.monitor"),
        ("pactl", "load-module", "module-native-protocol-tcp", "auth-anonymous=1"),
        ("pactl", "list", "modules"),
        ("pactl", "list", "clients"),
        ("pactl", "list", "sources"),
        ("pactl", "list", "sink-inputs"),
        ("pactl", "set-sink-volume", "out", "10%"),
        ("pactl", "set-sink-mute", "out", "1"),
        ("pactl", "suspend-sink", "out", "1"),
        ("pactl", "set-default-sink", "out"),
        ("pactl", "upload-sample", "/dev/null"),
        ("pactl", "unload-module", "0"),
        ("pactl", "exit"),
    ],
    ids=" ".join,
)
def test_a_host_may_do_nothing_but_play(server: Server, host: Mapping[str, str], words: tuple[str, ...]) -> None:
    before = server.run("pactl", "list")
    done = run(host, *words)
    assert done.returncode != 0, done.stdout
    assert server.run("pactl", "list").count("Module #") == before.count("Module #")


def test_questions_about_outputs_are_answered(host: Mapping[str, str]) -> None:
    assert "out" in run(host, "pactl", "list", "short", "sinks").stdout
    assert "Server Name" in run(host, "pactl", "info").stdout


def test_the_mixer_shows_the_name_that_we_gave(server: Server, host: Mapping[str, str]) -> None:
    argv = [
        "pacat", *FORM, "--client-name=Your bank", "--stream-name=tune\x1b[2J", "--property=target.object=elsewhere",
        "--property=application.name=Your bank",
    ]  # fmt: skip
    with subprocess.Popen([*argv, "/dev/zero"], env=host) as child:
        until(lambda: NAME in server.run("pactl", "list", "sink-inputs"), "its stream")
        said = server.run("pactl", "list", "sink-inputs") + server.run("pactl", "list", "clients")
        child.terminate()
    assert "Your bank" not in said
    assert "elsewhere" not in said
    assert "\x1b" not in said


def test_a_client_with_another_cookie_is_refused(host: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "cookie").write_bytes(bytes(COOKIE_BYTES))
    assert run(host, "pactl", "info").returncode != 0


def test_nothing_is_left_when_it_is_over(desktop: Server) -> None:
    with sound.listening(desktop.socket, NAME, bytes(COOKIE_BYTES)) as port:
        pass
    env = {**os.environ, "PULSE_SERVER": f"tcp:127.0.0.1:{port}"}
    assert run(env, "pactl", "info").returncode != 0
    assert NAME not in desktop.run("pactl", "list", "clients")


def test_without_a_sound_server_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PULSE_SERVER", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert sound.server_socket() is None
    monkeypatch.setenv("PULSE_SERVER", "tcp:192.0.2.1")
    assert sound.server_socket() is None


@pytest.mark.qa("A06", simulated="a player in place of a browser")
def test_an_application_in_a_window_is_heard(place: Place, desktop: Server, tmp_path: Path) -> None:
    """All the way: from its display on the host through ssh."""
    (tmp_path / "tone").write_bytes(sine())
    player = f"pacat {' '.join(FORM)} {tmp_path}/tone"
    with desktop.recorded(tmp_path / "heard"):
        started = time.monotonic()
        done = place.run("--window", "web", "xterm", "-e", player)
        assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 40
    check_tone(tmp_path / "heard")
    silent = place.run("--window", "--no-sound", "web", "xterm", "-e", f'test -z "$PULSE_SERVER" && {player}')
    assert silent.returncode == 0, silent.stderr


@pytest.mark.usefixtures("desktop")
def test_a_port_that_another_program_of_the_host_took_costs_the_sound_alone(place: Place) -> None:
    """The application knows the port of its sound, so that no other one will do when its window comes back."""
    running = place.start("web", "xterm")
    number = place.id()
    port = int((place.windows / number / "sound").read_text())
    place.window(r"\(web\)")
    os.kill(children(running, "tower.windows.viewer")[0], signal.SIGKILL)
    running.communicate(timeout=90)
    with socket.create_server(("127.0.0.1", port)):
        again = place.start("--attach", "web")
        place.window(r"\(web\)")
        assert place.run("--stop", "web").returncode == 0
        said = again.communicate(timeout=90)[1].decode()
    place.started.clear()
    assert f"xterm (web) has no sound: web: port {port} on 127.0.0.1 cannot be had" in said
    assert place.ids() == []
