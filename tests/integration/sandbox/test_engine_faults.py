# SPDX-License-Identifier: Apache-2.0
"""An engine that is absent, far away, or goes; a build that is killed, and what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes, digest_json
from pipeline.base.errors import FactoryError, SandboxError, StageError, StoreError
from pipeline.sandbox.channel_images import Known, ensure_builder, image_tag
from pipeline.sandbox.engine import LOCAL_IMAGES, Engine, image_architecture, process_start
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from pipeline.store.store import Store
from tests.integration.sandbox.conftest import IMAGE, Passage, Run, busybox_tar, left_in

CHILD = """
import sys
from pathlib import Path
from pipeline.sandbox.engine import Engine
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
engine = Engine(Path(sys.argv[1]))
engine.stop_on_signals()
sandbox = Sandbox("child", sys.argv[2], ("sh", "-c", "echo started; sleep 300"), epoch=0, inputs=(Input("/in/a", {"x": b"1"}),))
run_stage(engine, sandbox, outputs=Path(sys.argv[1]) / "o", declared=(), log=sys.stdout.buffer)
"""


def start_child(checkout: Path, image: str, root: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(checkout), image], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"started\n"
    return child


def wait_for(truth: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


# --- no engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("unix:///nonexistent/docker.sock", "no container engine at unix:///nonexistent/docker.sock", "apt install docker.io"),
        ("tcp://127.0.0.1:1", "is not running", "start the engine"),
        ("tcp://no-such-name.invalid:2375", "cannot be reached", "DOCKER_HOST"),
        ("gopher://x", "cannot be used", "DOCKER_HOST"),
    ],
)
def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str, hint: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(SandboxError) as caught:
        Engine(tmp_path).ping()
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_engine_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sandbox.engine._PING_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SandboxError, match="cannot be reached"):
            Engine(tmp_path).ping()


def test_engine_that_lets_us_not_in(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
        code = (
            "import os, sys; from pathlib import Path; import docker.errors, requests\n"
            "from pipeline.sandbox.engine import Engine\n"
            "from pipeline.base.errors import SandboxError\nos.setgid(65534); os.setuid(65534)\n"
            "try: Engine(Path('/')).ping()\nexcept SandboxError as error: print(error)"
        )
        env = {**os.environ, "DOCKER_HOST": f"unix://{path}"}
        said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "does not let this user in" in said.stdout, said
    assert "group" in said.stdout


def test_no_image(run: Run) -> None:
    with pytest.raises(SandboxError, match="has no image localhost/tower-test:other"):
        run("true", image=f"{LOCAL_IMAGES}tower-test:other")


# --- an engine elsewhere, and one that goes ---------------------------------------------------------------------


def test_far_engine(run: Run, passage: Passage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything travels through the connection: no path of this machine is named to the engine."""
    monkeypatch.setenv("DOCKER_HOST", passage.address)
    run.engine = Engine(tmp_path)
    data = os.urandom(1 << 20)
    run("cp /in/a/x /out/x", inputs=(Input("/in/a", {"x": data}),), declared=("x",))
    assert (run.outputs / "x").read_bytes() == data
    assert passage.passed > 2 << 20


def test_engine_goes_in_the_middle(run: Run, passage: Passage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    near = run.engine
    monkeypatch.setenv("DOCKER_HOST", passage.address)
    run.engine = Engine(tmp_path)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run("echo started; sleep 100")
        except FactoryError as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: "started" in run.said)
    passage.cut()
    worker.join(20)
    (error,) = failures
    assert isinstance(error, SandboxError)
    assert passage.address in error.message
    assert error.hint
    # We live, so nothing is taken from us ...
    assert near.reap() == 0
    assert len(left_in(near)) == 3
    # ... until we are gone.
    monkeypatch.setattr("pipeline.sandbox.engine.process_start", lambda _: None)
    assert near.reap() == 3


def test_engine_goes_while_it_answers(run: Run, passage: Passage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    near = run.engine
    monkeypatch.setenv("DOCKER_HOST", passage.address)
    run.engine = Engine(tmp_path)
    mark = passage.passed

    def cut() -> None:
        wait_for(lambda: passage.passed - mark > 20 << 20)
        passage.cut()

    threading.Thread(target=cut, daemon=True).start()
    with pytest.raises(SandboxError, match="went away while fetching"):
        run("dd if=/dev/urandom of=/out/x bs=1M count=100")
    monkeypatch.setattr("pipeline.sandbox.engine.process_start", lambda _: None)
    near.reap()


# --- a build that is stopped or killed --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_build_cleans_up(engine: Engine, image: str, tmp_path: Path, checkout: Path, number: signal.Signals) -> None:
    child = start_child(tmp_path, image, checkout)
    assert left_in(engine)
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode != 0
    assert left_in(engine) == []


def test_a_killed_build_is_cleaned_up_by_the_next(engine: Engine, image: str, tmp_path: Path, checkout: Path) -> None:
    child = start_child(tmp_path, image, checkout)
    assert engine.reap() == 0, "a live build's things must stay"
    assert len(left_in(engine)) == 4
    child.kill()
    child.communicate(timeout=20)
    other = Engine(tmp_path / "other")
    assert other.reap() == 0, "another checkout's things must stay"
    said: list[str] = []
    Engine(tmp_path, report=said.append).reap_once()
    assert left_in(engine) == []
    assert said == ["sandbox: removed 4 containers and volumes that a killed build left"]


def test_stop_reaches_other_threads(run: Run) -> None:
    failures: list[FactoryError] = []

    def work() -> None:
        try:
            run("echo started; sleep 100")
        except FactoryError as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: "started" in run.said)
    run.engine.stop()
    worker.join(20)
    assert [error.message for error in failures] == ["stopped"]


def test_process_start_tells_processes_apart() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        first = process_start(child.pid)
        assert first
        assert first != process_start(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert process_start(child.pid) is None


def test_full_disk_here(run: Run, small_disk: Callable[[str], Path]) -> None:
    store = Store(small_disk("4m"))
    with pytest.raises(StoreError, match="bytes free"), store.building(digest_json({}), {}) as work:
        big = replace(run.sandbox, argv=("dd", "if=/dev/urandom", "of=/out/x", "bs=1M", "count=8"))
        run_stage(run.engine, big, outputs=work.path, declared=("x",), log=run.log)
    assert list(store.temporary.iterdir()) == []


def test_full_disk_of_the_log(run: Run, small_disk: Callable[[str], Path]) -> None:
    with (small_disk("1m") / "log").open("wb", buffering=0) as log, pytest.raises(OSError, match="No space left"):
        run_stage(run.engine, replace(run.sandbox, argv=("yes",)), outputs=run.outputs, declared=(), log=log)


# --- images -----------------------------------------------------------------------------------------------------


def test_images_by_label(engine: Engine) -> None:
    raw = busybox_tar()
    for name in ("old", "new"):
        engine.import_image([raw], f"{LOCAL_IMAGES}tower-test-gc:{name}", labels={"tower.builder": name})
    found = engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:new")
    assert found is not None
    assert found["Config"]["Labels"] == {
        "tower.builder": "new",
        "tower.checkout": engine.checkout,
        "tower.folder": str(engine.folder),
    }
    assert engine.remove_images("tower.builder", name="tower-test-other") == 0
    assert engine.remove_images("tower.builder", keep=(f"{LOCAL_IMAGES}tower-test-gc:new",)) == 1
    assert engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:new") is not None
    assert engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:old") is None
    assert engine.remove_images("tower.builder") == 1
    assert engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:new") is None


def test_an_image_that_somebody_gave_the_builders_name(engine: Engine, tmp_path: Path) -> None:
    """Tag and labels are right, and it is another image: it is not used. Nor is one that nobody here imported."""
    said: list[str] = []
    known, key = Known(tmp_path / "cache" / "engine-images", said.append), digest_bytes(b"key")
    made: list[str] = []

    def build() -> str:
        def make(tar: Path, folder: Path) -> None:
            made.append(folder.name)
            tar.write_bytes(busybox_tar(b"right"))

        return ensure_builder(engine, key, channel="test", arch="x86_64", known=known, scratch=tmp_path / "tmp", make=make)

    def content_of(image: str) -> str:
        return str(engine.api.inspect_image(image)["RootFS"]["Layers"])  # type: ignore[no-untyped-call]

    try:
        first = build()
        right = content_of(first)
        assert build() == first
        assert len(made) == 1
        labels = {"tower.builder": key, "tower.builder-of": "test/x86_64"}
        foreign = engine.import_image([busybox_tar(b"foreign")], image_tag("builder", "test", key), labels=labels)
        assert build() != foreign
        assert content_of(build()) == right
        assert len(made) == 2
        assert len(said) == 1
        assert foreign in said[0]
        assert "made again" in said[0]

        for note in known.folder.glob("*.json"):
            note.write_text("[")
        assert content_of(build()) == right
        assert len(made) == 3
        assert len(said) == 1
    finally:
        engine.remove_images("tower.builder-of=test/x86_64")


def test_images_of_checkouts_that_are_gone(engine: Engine, tmp_path: Path) -> None:
    odd = os.fsdecode(b'R&D "q" $HOME `x` back\\slash\n%41 gr\xc3\xbcn \xff')
    folders = {name: tmp_path / odd / name for name in ("there", "gone", "elsewhere")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        # An engine may serve several machines: what another one's folder is called says nothing here.
        made = Engine(folder)
        if name == "elsewhere":
            made.folder = tmp_path / "of-another-machine"
        made.import_image([busybox_tar()], f"{LOCAL_IMAGES}tower-test-gc:{name}", labels={"tower.gone": name})
    folders["gone"].rmdir()
    try:
        # Made just now: another mount namespace may have the folder.
        assert engine.remove_images_of_gone_checkouts("tower.gone") == 0
        assert engine.remove_images_of_gone_checkouts("tower.gone", older_than=0) == 1
        assert [name for name in folders if engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:{name}")] == ["there", "elsewhere"]
    finally:
        for folder in folders.values():
            Engine(folder).remove_images("tower.gone")


def test_image_for_another_architecture(engine: Engine) -> None:
    tag = f"{LOCAL_IMAGES}tower-test-gc:arm"
    engine.import_image([busybox_tar()], tag, labels={"tower.builder": "arm"}, architecture="aarch64")
    found = engine.find_image(tag)
    assert found is not None
    assert image_architecture(found) == "arm64"
    assert engine.remove_images("tower.builder") == 1


def test_broken_image(engine: Engine) -> None:
    with pytest.raises(SandboxError, match="importing image"):
        engine.import_image([b"this is no tar archive" * 100], f"{LOCAL_IMAGES}tower-test-gc:broken")
    assert engine.find_image(f"{LOCAL_IMAGES}tower-test-gc:broken") is None


def test_image_is_there(image: str, engine: Engine) -> None:
    assert image == IMAGE
    assert engine.find_image(image) is not None


def test_stage_error_is_not_an_engine_error(run: Run) -> None:
    with pytest.raises(StageError):
        run("exit 1")
