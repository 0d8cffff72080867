# SPDX-License-Identifier: Apache-2.0
"""What a stage sees, may and may not in its sandbox."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

import docker.errors
import pytest
from docker.api.container import ContainerApiMixin

from pipeline.base.canonical import digest_bytes, digest_json
from pipeline.base.errors import FormatError, SandboxError, StageError
from pipeline.formats.tarstream import read_tar
from pipeline.sandbox import stage_run
from pipeline.sandbox.container import Container
from pipeline.sandbox.engine import Engine
from pipeline.sandbox.receive import receive
from pipeline.sandbox.spec import CAPABILITIES, Limits, Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from pipeline.store.artifact import DamagedError
from pipeline.store.store import Artifact, Store
from tests.integration.sandbox.conftest import Run, left_in
from tests.unit.tars import flipped, headers


def artifact(root: Path, data: bytes) -> Artifact:
    document: dict[str, Any] = {"size": len(data)}
    with Store(root).building(digest_json(document), document) as work:
        (work.path / "x").write_bytes(data)
        return work.commit(1)


def test_inputs_reach_the_stage_and_declared_outputs_come_back(run: Run, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "run").write_text("#!/bin/sh\necho it runs\n")
    (tree / "d" / "run").chmod(0o700)
    found = run(
        "/src/tree/d/run >/out/said; cp /in/built/x /out/x; mkdir /out/d; cat /stage-options/options.json >/out/d/options",
        inputs=(
            Input("/src/tree", tree),
            Input("/in/built", artifact(tmp_path / "store", b"built")),
            Input("/stage-options", {"options.json": b"{}"}),
        ),
        declared=("said", "x", "d"),
    )
    assert {name: row.sha256 for name, row in found.items()} == {
        "said": digest_bytes(b"it runs\n"),
        "x": digest_bytes(b"built"),
        "d/options": digest_bytes(b"{}"),
    }
    assert (run.outputs / "said").read_text() == "it runs\n"


def test_a_stage_sees_a_fixed_environment_and_no_network_but_loopback(run: Run) -> None:
    run(
        "id -u; hostname; umask; pwd; date; env | sort; ls -ld /in/a/x; ls /sys/class/net",
        inputs=(Input("/in/a", {"x": b""}),),
        env={"TOWER_ARCH": "aarch64"},
    )
    lines = run.said.splitlines()
    assert lines[:4] == ["0", "builder", "0022", "/work"]
    assert "UTC" in lines[4]
    assert lines[5:-2] == [
        "HOME=/tmp/home", "HOSTNAME=builder", "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/work", "SHLVL=1",
        "SOURCE_DATE_EPOCH=1000000000", "TERM=dumb", "TOWER_ARCH=aarch64", "TZ=UTC", "container=oci",
    ]  # fmt: skip
    assert "Sep  9  2001" in lines[-2]
    assert lines[-1] == "lo"


@pytest.mark.parametrize(
    "place", ["/x", "/etc/x", "/bin/x", "/in/a/x", "/in/x", "/etc/hosts", "/sys/x", "/proc/sys/kernel/hostname"]
)
def test_a_stage_cannot_write_outside_its_own_folders(run: Run, place: str) -> None:
    with pytest.raises(StageError, match=r"exit status [12]\n.*([Rr]ead-only file system|Permission denied|nonexistent)"):
        run(f"echo 1 >>{place}", inputs=(Input("/in/a", {"y": b""}),))


def test_a_stage_can_write_and_run_files_in_its_own_folders(run: Run) -> None:
    run(
        "for place in /out /work /tmp /tmp/home /run; do echo 1 >$place/x; done\n"
        "echo exit 0 >/tmp/script; chmod +x /tmp/script; /tmp/script"
    )


def test_no_privileges(run: Run) -> None:
    run("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status")
    rows = dict(line.split(":\t") for line in run.said.splitlines())
    assert {name: int(value, 16) for name, value in rows.items()} == {
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2,
    }  # fmt: skip
    with pytest.raises(StageError, match="permission denied"):
        run("mount -t tmpfs tmpfs /work")
    with pytest.raises(StageError, match="ermitted"):
        run("touch /work/x; chown 1:1 /work/x")


def test_listed_capabilities(run: Run) -> None:
    run("touch /work/x; chown 1:1 /work/x; stat -c %u /work/x", capabilities=("CHOWN",))
    assert run.said == "1\n"


@pytest.mark.parametrize("name", ["SYS_ADMIN", "NET_ADMIN", "SYS_MODULE", "ALL", "chown"])
def test_other_capabilities_are_refused(name: str) -> None:
    assert name not in CAPABILITIES
    with pytest.raises(SandboxError, match=f"capability {name} is given to no stage"):
        Sandbox("test", "image", ("true",), epoch=0, capabilities=(name,))


@pytest.mark.parametrize("target", ["/out/x", "/work", "/run/secrets", "/etc/passwd", "/usr/share/x"])
def test_inputs_stay_out_of_the_system(target: str) -> None:
    with pytest.raises(SandboxError, match="folder of the system"):
        Sandbox("test", "image", ("true",), epoch=0, inputs=(Input(target, {"x": b""}),))


def test_no_network(run: Run) -> None:
    with pytest.raises(StageError, match="Network is unreachable"):
        run("nc -w 3 192.0.2.1 80 </dev/null")


def test_secrets_are_files_and_nothing_else(run: Run) -> None:
    seen: list[str] = []

    def look() -> None:
        """What the engine says of the stage's container while it runs; then let the script end."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for name in left_in(run.engine):
                with suppress(docker.errors.APIError):  # a volume, or a container that has not begun, or is gone
                    seen.append(json.dumps(run.engine.api.inspect_container(name)))
                    if '"Running": true' in seen[-1] and "/out/go" in seen[-1]:
                        run.engine.api.exec_start(run.engine.api.exec_create(name, ["touch", "/out/go"])["Id"])
                        return
            time.sleep(0.05)

    looker = threading.Thread(target=look)
    looker.start()
    run(
        "df /run/secrets | grep -q ^tmpfs; sha256sum </run/secrets/signing-key; env; "
        "while [ ! -e /out/go ]; do sleep 0.1; done; rm /out/go",
        secrets={"signing-key": b"sesame"},
    )
    looker.join()
    assert digest_bytes(b"sesame") in run.said
    assert "sesame" not in run.said
    assert any('"Running": true' in text for text in seen)
    assert not any("sesame" in text for text in seen)
    with pytest.raises(StageError, match="ead-only"):
        run("echo >/run/secrets/more", secrets={"signing-key": b"sesame"})


def test_failure_tells_all(run: Run) -> None:
    with pytest.raises(StageError) as caught:
        # One stream: what the engine sends of two has no order between them.
        run("exec 2>&1; for i in $(seq 40); do echo line $i; done; echo wrong >&2; exit 3")
    lines = caught.value.message.splitlines()
    assert lines[0] == "test: exit status 3"
    assert [line.strip() for line in lines[1:]] == [f"line {number}" for number in range(12, 41)] + ["wrong"]
    assert caught.value.hint == "see the log"
    assert run.said.count("\n") == 41


def test_log_is_whole(run: Run) -> None:
    run("seq 200000")
    assert run.said == "".join(f"{number}\n" for number in range(1, 200001))


def test_log_has_a_bound(run: Run) -> None:
    """What is in the middle of too much is left out; the log says so, and so does the build."""
    said: list[str] = []
    run.engine = Engine(run.engine.folder, report=said.append)
    whole = "".join(f"{number}\n" for number in range(1, 200001))
    run("seq 200000", limits=Limits(log_bytes=1000))
    left = len(whole) - 1000 - (1 << 16)
    note = f"\n--- {left} bytes are left out here: a log has 1000 bytes, and the last lines ---\n"
    assert run.said == whole[:1000] + note + whole[-(1 << 16) :]
    assert said == [f"test: wrote too much: its log leaves out {left} bytes before the last lines"]
    with pytest.raises(StageError, match=r"exit status 3\n(.*\n)+  end\n"):
        run("seq 200000; echo end; exit 3", limits=Limits(log_bytes=1000))
    assert len(said) == 2, "also when it fails"
    for most in (len(whole) - (1 << 16), len(whole) - 1, len(whole), len(whole) + 1):
        run("seq 200000", limits=Limits(log_bytes=most))
        assert run.said == whole
    assert len(said) == 2


def test_command_that_is_not_there(run: Run) -> None:
    run.sandbox = Sandbox("test", run.sandbox.image, ("/stage/missing",), epoch=0)
    with pytest.raises(StageError, match=r"its command is not in the builder.*/stage/missing"):
        run_stage(run.engine, run.sandbox, outputs=run.outputs, declared=(), log=run.log)


def test_time_limit(run: Run) -> None:
    begin = time.monotonic()
    with pytest.raises(StageError, match=r"not finished after 1 s\n.*begun"):
        run("echo begun; sleep 50", timeout=1)
    with pytest.raises(StageError, match="not finished after 1 s"):
        run("exec >/dev/null 2>&1; sleep 50", timeout=1)
    assert time.monotonic() - begin < 30


def test_outputs_closed_early_is_no_end(run: Run) -> None:
    assert run("exec >/dev/null 2>&1; sleep 1; echo 1 >/out/x").keys() == {"x"}  # sleeps: the silence is the case


def test_memory_limit(run: Run) -> None:
    with pytest.raises(StageError, match=r"memory limit|signal 9|exit status"):
        run("tail -c 200m </dev/zero", limits=Limits(memory=32 << 20))


def test_process_limit(run: Run) -> None:
    with pytest.raises(StageError, match="fork"):
        run("for i in $(seq 50); do sleep 5 & done; wait", limits=Limits(processes=20))  # sleeps: all fifty are there at once


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("ln -s /etc/passwd /out/x", "symbolic link"),
        ("echo 1 >/out/x; ln /out/x /out/y", "hard link"),
        ("mkfifo /out/x", "device, pipe or socket"),
        ("echo 1 >/out/y", "is not among the outputs"),
        ("true", "did not make it"),
    ],
)
def test_outputs_are_checked(either: Run, script: str, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        either(script, declared=("x",) if "ln /out" not in script else ("*",))
    assert caught.value.message.startswith("test: /out/")


def test_the_end_of_the_stage_is_that_of_its_command(either: Run) -> None:
    """The list of what it made is made after it, and changes neither its end nor what it sees."""
    run = either
    with pytest.raises(StageError, match="exit status 7"):
        run("echo 1 >/out/x; exit 7")
    with pytest.raises(StageError, match="signal 9"):
        run("kill -9 $$")
    with pytest.raises(StageError, match=r"/out/\.tower-made: this name is taken"):
        run("echo 1 >/out/.tower-made")
    names = ["a b", "*", "[!.]x", ".hidden", "..two", "-n", "d/e/f", "d/.g", "ä"]
    found = run("mkdir -p /out/d/e; cd /out; " + "; ".join(f"echo >./{quote(name)}" for name in names))
    assert found.keys() == set(names)


def test_a_socket_is_named(either: Run) -> None:
    """An engine leaves it out of what it sends, and says nothing."""
    head = "070701" + "".join(f"{number:08x}" for number in (1, stat.S_IFSOCK | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0))
    end = "070701" + "".join(f"{number:08x}" for number in (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0))
    archive = f"{head}s\0{end}TRAILER!!!\0".encode()
    with pytest.raises(StageError, match=r"^test: /out/d/s: is a socket"):
        either("echo 1 >/out/x; mkdir /out/d; cd /out/d; cpio -i </in/a/x", inputs=(Input("/in/a", {"x": archive}),))


def test_outputs_are_those_of_the_stream(run: Run, far: Run) -> None:
    """Taken at once and sent by the engine, they are the same."""
    script = "cd /out; mkdir -p d/e; echo 1 >d/x; chmod 0 d/x; echo 2 >y; chmod 751 y; dd if=/dev/zero of=z count=99"
    found = [one(script) for one in (run, far)]
    assert found[0] == found[1]
    trees = [
        {str(path.relative_to(one.outputs)): (path.stat().st_mode, path.stat().st_size) for path in one.outputs.rglob("*")}
        for one in (run, far)
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) == 5


def test_outputs_of_an_engine_here_are_not_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or "DOCKER_HOST" in os.environ:
        pytest.skip("the engine's files are another user's")
    monkeypatch.delattr(stage_run, "fetch_outputs")
    assert run("echo 1 >/out/x").keys() == {"x"}


def test_a_real_stream_that_is_damaged_on_its_way(far: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this engine sends, with each bit of each header changed, and cut at each block and around it."""
    sent: list[bytes] = []
    send = stage_run.fetch_outputs

    def record(engine: Engine, container: Container) -> Generator[bytes, None, None]:
        sent.extend(send(engine, container))
        yield from sent

    monkeypatch.setattr(stage_run, "fetch_outputs", record)
    long = "n" * 120
    run = far
    names = run(f"mkdir /out/d; cd /out/d; for name in a {long} c; do echo $name >$name; done", declared=("d/**",)).keys()
    assert names == {"d/a", f"d/{long}", "d/c"}
    whole = b"".join(sent)
    found = list(headers(whole))
    assert len(found) >= 7

    def refused(data: bytes) -> None:
        shutil.rmtree(run.outputs)
        run.outputs.mkdir()
        with pytest.raises(StageError):
            receive(iter([data]), run.outputs, declared=("d/**",), max_bytes=1 << 20, listed=True)

    for changed in flipped(whole, iter(found)):
        with pytest.raises(FormatError):
            list(read_tar(io.BytesIO(changed), "x"))
    for changed in islice(flipped(whole, iter(found[3:])), 0, None, 11):
        refused(changed)
    for place in range(0, len(whole), 512):
        for length in {max(place - 1, 0), place, place + 1}:
            refused(whole[:length])


def test_holes_stay_holes(either: Run) -> None:
    either("dd if=/dev/zero of=/out/x.img bs=1M count=0 seek=64; echo data | dd of=/out/x.img bs=1M seek=32 conv=notrunc")
    info = (either.outputs / "x.img").stat()
    assert info.st_size == 64 << 20
    assert info.st_blocks * 512 < 1 << 20


def test_damaged_input_is_never_seen_by_a_stage(either: Run, tmp_path: Path) -> None:
    run = either
    made = artifact(tmp_path / "store", b"x" * 100_000)
    (made.path / "x").chmod(0o644)
    (made.path / "x").write_bytes(b"x" * 99_999 + b"y")
    with pytest.raises(DamagedError) as caught:
        run("echo started", inputs=(Input("/in/a", made),))
    assert caught.value.key == made.key
    assert run.said == ""


def test_image_of_another_architecture(run: Run) -> None:
    with pytest.raises(SandboxError, match="is for amd64, not aarch64"):
        run("true", architecture="aarch64")
    with pytest.raises(SandboxError, match="not an architecture"):
        run("true", architecture="vax")


def test_two_at_once(run: Run, tmp_path: Path) -> None:
    """Threads share an engine: each stage gets its own inputs, outputs and log."""
    runs = [replace(run, outputs=tmp_path / f"out{number}") for number in range(3)]

    def work(number: int) -> None:
        runs[number]("cat /in/a/x | tee /out/x", inputs=(Input("/in/a", {"x": b"%d\n" % number}),))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.said for one in runs] == ["0\n", "1\n", "2\n"]
    assert [(one.outputs / "x").read_text() for one in runs] == ["0\n", "1\n", "2\n"]


def test_same_input_same_view(run: Run, far: Run, tmp_path: Path) -> None:
    """Runs at different times, from different places and by an engine elsewhere see the same."""
    views = []
    for number, engine in enumerate((run, run, far)):
        root = tmp_path / str(number) / "tree"
        (root / "z").mkdir(parents=True)
        (root / "z" / "f").write_text("content")
        (root / "z" / ("n" * 200)).write_bytes(bytes(1 << 20))
        (root / "z" / "link").symlink_to("../nowhere")
        (root / "run").write_bytes(b"")
        (root / "run").chmod(0o4700 + number)
        os.utime(root / "z", (number, number))
        one = replace(engine, outputs=tmp_path / f"out{number}", log=io.BytesIO())
        one(
            "find /in /src -exec stat -c '%n %a %h %u %g %Y %s %F' {} +; cat /src/tree/z/f; readlink /src/tree/z/link; "
            "grep -E ' /(in|src) ' /proc/mounts | cut -d ' ' -f 2,4",
            inputs=(Input("/src/tree", root), Input("/in/a", {"x": b"1"}), Input("/in/b/c", {})),
            secrets={"key": b"s"},
        )
        views.append("\n".join(sorted(one.said.splitlines())))
    assert views[0] == views[1] == views[2]
    assert "/src/tree/z/f 644 1 0 0 1000000000 7 regular file" in views[0]
    assert "/src/tree/run 755 1 0 0 1000000000 0 regular empty file" in views[0]
    assert "/in 755" in views[0]


def test_inputs_of_an_engine_here_are_not_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or "DOCKER_HOST" in os.environ:
        pytest.skip("the engine's files are another user's")
    run.engine.ping()
    monkeypatch.delattr(ContainerApiMixin, "put_archive")
    run("cat /in/a/x", inputs=(Input("/in/a", {"x": b"1"}),))
    assert run.said == "1"
