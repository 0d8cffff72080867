# SPDX-License-Identifier: Apache-2.0
"""An engine, and a tiny image: a static busybox (Debian's busybox-static), imported from a tar made here."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import AF_UNIX, SHUT_RDWR, SOCK_STREAM, create_server, socket
from typing import Any

import pytest

from pipeline.base.errors import SandboxError
from pipeline.sandbox.engine import LOCAL_IMAGES, Engine
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.store.artifact import FileRecord

IMAGE = f"{LOCAL_IMAGES}tower-test:busybox"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine for a checkout of this test's own, which must leave nothing behind."""
    made = Engine(tmp_path)
    try:
        made.ping()
    except SandboxError as error:
        pytest.skip(str(error))
    yield made
    assert left_in(made) == []


def left_in(engine: Engine) -> list[str]:
    """The containers and volumes that carry the label of the engine's checkout."""
    mine = {"label": f"tower.checkout={engine.checkout}"}
    rows = [str(row["Id"]) for row in engine.api.containers(all=True, filters=mine)]
    return rows + [str(row["Name"]) for row in engine.api.volumes(filters=mine)["Volumes"] or ()]


def busybox_tar(content: bytes = b"") -> bytes:
    """A root file system of one program, and a file of this content if it is not empty."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("no busybox: apt install busybox-static")
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=10).stdout.split()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        folder = tarfile.TarInfo("bin")  # Docker would give one that is not named to nobody but root
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        tar.add(Path(program).resolve(), "bin/busybox")
        for name in names:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if name != "busybox":
                tar.addfile(link)
        if content:
            info = tarfile.TarInfo("content")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny image's tag."""
    try:
        made = Engine(tmp_path_factory.mktemp("image"))
        if made.find_image(IMAGE) is None:
            made.import_image([busybox_tar()], IMAGE)
    except SandboxError as error:
        pytest.skip(str(error))
    return IMAGE


@dataclass
class Run:
    """Runs shell lines in a sandbox."""

    engine: Engine
    sandbox: Sandbox
    outputs: Path
    log: io.BytesIO = field(default_factory=io.BytesIO)

    def __call__(self, script: str, *, declared: tuple[str, ...] | None = None, **changes: Any) -> dict[str, FileRecord]:
        shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir()
        self.log = io.BytesIO()
        made = replace(self.sandbox, argv=("sh", "-euc", script), **changes)
        return run_stage(self.engine, made, outputs=self.outputs, declared=declared, log=self.log, hint="see the log")

    @property
    def said(self) -> str:
        return self.log.getvalue().decode()


@pytest.fixture
def run(engine: Engine, image: str, tmp_path: Path) -> Run:
    return Run(engine, Sandbox("test", image, (), epoch=1_000_000_000, timeout=60), tmp_path / "out")


class Passage:
    """A TCP port of this machine that passes everything on to the engine's socket, until it is cut."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._listener = create_server(("127.0.0.1", 0))
        self._ends: list[socket] = []
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = 0
        self._start(self._accept)

    def _start(self, act: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=act, args=args, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket(AF_UNIX, SOCK_STREAM)
            far.connect(self._engine)
            self._ends += [near, far]
            self._start(self._pass, near, far)
            self._start(self._pass, far, near)

    def _pass(self, source: socket, sink: socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.passed += len(data)
                sink.sendall(data)
            sink.shutdown(SHUT_RDWR)

    def cut(self) -> None:
        """What the network or a kill does: every connection ends, new ones are refused."""
        for end in [self._listener, *self._ends]:
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)  # wakes the threads, which close() does not
            end.close()


@pytest.fixture
def passage(engine: Engine) -> Iterator[Passage]:
    """A way to the engine that knows nothing of this machine's files, and that can be cut."""
    if not engine.address.startswith("unix://"):
        pytest.skip("the engine is not behind a socket of this machine")
    made = Passage(engine.address.removeprefix("unix://"))
    yield made
    made.cut()


@pytest.fixture
def far(run: Run, passage: Passage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """As `run`, by an engine whose address tells nothing of where it is."""
    run.engine.ping()
    monkeypatch.setenv("DOCKER_HOST", passage.address)
    return replace(run, engine=Engine(tmp_path), outputs=tmp_path / "far")


@pytest.fixture(params=["run", "far"])
def either(request: pytest.FixtureRequest) -> Run:
    """Both: an engine here, and one that sends what it made."""
    found: Run = request.getfixturevalue(request.param)
    return found
