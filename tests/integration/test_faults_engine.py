# SPDX-License-Identifier: Apache-2.0
"""No container engine, one that does not answer, and one that goes away in the middle of a stage."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from pipeline.base.filelock import locked
from pipeline.sandbox.engine import LABEL_CHECKOUT, checkout_id
from tests.integration.conftest import Tiny
from tests.integration.test_faults_stage import containers, log_of, wait_for

SANDBOX_ERROR = 14


def test_no_engine(tiny: Tiny) -> None:
    said = tiny.doit(status=SANDBOX_ERROR, env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    assert "unix:///nonexistent/docker.sock" in said
    assert "hint:" in said


def test_an_engine_address_without_a_listener_is_named_in_the_error(tiny: Tiny) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        assert address in tiny.doit(status=SANDBOX_ERROR, env={"DOCKER_HOST": address})


def test_a_build_that_is_up_to_date_needs_no_engine(tiny: Tiny) -> None:
    tiny.doit()
    tiny.doit(env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    tiny.doit("list", env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ssh://user@127.0.0.1", "DOCKER_HOST=ssh://user@127.0.0.1: the factory does not speak ssh://"),
        ("tcp://box:port", "the container engine at tcp://box:port"),
        ("tcp://[::1", "the container engine at tcp://[::1"),
        ("tcp://", "the container engine at tcp://"),
        ("npipe://x", "the container engine at npipe://x"),
        ("fd://", "the container engine at fd://"),
        ("unix:///" + 300 * "x", "the container engine at unix:///xxx"),
        ("unix:///dev/null", "the container engine at unix:///dev/null is not running"),
    ],
)
def test_invalid_engine_addresses_are_named_in_the_error(tiny: Tiny, address: str, message: str) -> None:
    said = tiny.doit("builder", status=SANDBOX_ERROR, env={"DOCKER_HOST": address})
    assert message in said
    assert "hint: " in said


def test_an_odd_docker_configuration(tiny: Tiny, tmp_path: Path) -> None:
    """One registry's odd entry ends no build on the local engine, and a proxy in it reaches no stage."""
    config = tmp_path / "docker" / "config.json"
    config.parent.mkdir()
    env = {"DOCKER_CONFIG": str(config.parent)}
    auths = ('{"auths":{"r.example":{"auth":""}}}', '{"auths":{"r.example":[]}}')
    for odd in (*auths, '{"proxies":null}', "[]", "{", '{"HttpHeaders":5}'):
        config.write_text(odd)
        assert "error" not in tiny.doit("builder", env=env), odd
    config.write_text('{"proxies": {"default": {"httpProxy": "http://proxy.example:3128", "noProxy": "x.example"}}}')
    tiny.script("first", "cp /src/text/first /out/first", "set")
    tiny.doit(env=env)
    assert "SOURCE_DATE_EPOCH=" in log_of(tiny, "first")
    assert "proxy" not in log_of(tiny, "first").lower()
    config.unlink()
    config.mkdir()
    tiny.doit("builder", env=env)


class Passage:
    """A socket that passes everything on to the real engine, until it is closed."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path = path
        self.engine = engine
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.engine)
                self.ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """The engine is gone: no new connections, and the present ones end."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def passage(tmp_path: Path) -> Iterator[Passage]:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    made = Passage(tmp_path / "engine.sock", address.removeprefix("unix://"))
    yield made
    made.close()


def test_the_engine_goes_away_in_the_middle_of_a_stage(tiny: Tiny, passage: Passage) -> None:
    tiny.script("second", "echo begun", "sleep 60")
    build = tiny.start(env={"DOCKER_HOST": f"unix://{passage.path}"})
    wait_for(lambda: "begun" in log_of(tiny, "second"))
    started = time.monotonic()
    passage.close()
    said, _ = build.communicate(timeout=60)
    assert build.returncode == SANDBOX_ERROR, said
    assert "Traceback" not in said, said
    assert str(passage.path) in said
    assert time.monotonic() - started < 30, "and it does not wait for long"
    assert tiny.artifacts("first"), "what was finished is kept"
    assert not tiny.artifacts("second")
    assert not tiny.leftovers()
    # It is back: the next build removes what was left there, and goes on.
    tiny.script("second", "cat /in/first/first /src/text/second > /out/second")
    tiny.doit()
    assert tiny.image == "one\ntwo\n"
    assert not containers(tiny)


def test_the_builder_is_removed_between_two_stages(tiny: Tiny) -> None:
    """As another checkout's build or a cleaning of the engine does it, which leave alone what a container uses."""
    tiny.doit()
    store = tiny.folder / "build" / "store"
    (second,) = tiny.artifacts("second")
    for path in (*tiny.artifacts("first"), second, *tiny.artifacts("image.img")):
        shutil.rmtree(path.parents[1])
    engine = docker.from_env()
    (image,) = engine.api.images(filters={"label": f"{LABEL_CHECKOUT}={checkout_id(tiny.folder)}"}, quiet=True)
    # The second stage waits for us, as it does for another build of the same.
    with locked(store / "locks" / second.parents[1].name):
        build = tiny.start()
        assert build.stdout is not None
        said = next(line for line in build.stdout if "by another process" in line)
        engine.api.remove_image(image)
    with build:
        said += build.stdout.read()
    assert build.returncode == 0, said
    assert f"has no image {image}; it is made again" in said
    assert tiny.image == "one\ntwo\n"
