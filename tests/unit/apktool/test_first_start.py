# SPDX-License-Identifier: Apache-2.0
"""Scripts that could not run where a root was made run at its first start: the stage's steps, and the device's script.

Each root is made by the lab's apk with --no-scripts, and its first start is a chroot: needs root.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.apk.package import TarEntry
from tests.unit.apktool.conftest import CHECKOUT, Lab

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")

PENDING = CHECKOUT / "stages/host-system/pending.py"
RUNNER = CHECKOUT / "overlays/host/usr/libexec/tower/scripts"
STEPS = "var/lib/tower/scripts"
APPLETS = ("sh", "cat", "chmod", "chown", "echo", "env", "ls", "logger", "rm", "sed", "sleep", "tail", "timeout", "touch")
USERS = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\n"
GROUPS = "root:x:0:\ndaemon:x:2:\n"


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def noting(more: str = "") -> bytes:
    """A script that writes down its name, its arguments and what it finds, then does more."""
    return script(f'echo "${{0##*/}} $* user=$(sed -n s/^timed:.*/yes/p /etc/passwd)" >>/log\n{more}')


@pytest.fixture(scope="session")
def programs() -> dict[str, bytes | str]:
    """Busybox, and what makes users, with their libraries."""
    files: dict[str, bytes | str] = {f"bin/{name}": "/bin/busybox" for name in APPLETS}
    # It would wait for all disks of this machine; a process that is killed, unlike a machine, loses nothing it wrote.
    files["bin/sync"] = script("exit 0")
    for name, place in (("busybox", "bin"), ("groupadd", "usr/sbin"), ("useradd", "usr/sbin")):
        path = shutil.which(name)
        assert path, f"{name} is not installed"
        files[f"{place}/{name}"] = Path(path).read_bytes()
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+)", libraries):
            files[library.lstrip("/")] = Path(library).resolve().read_bytes()
    return files


@pytest.fixture
def device(lab: Lab, programs: dict[str, bytes | str]) -> Lab:
    """A repository with a small system, and a service as Alpine packs one: with a user who is made by its script."""
    modes = dict.fromkeys(programs, 0o755)
    files = programs | {"etc/passwd": USERS.encode(), "etc/group": GROUPS.encode(), "etc/login.defs": b"SYS_UID_MIN 100\n"}
    lab.package("zz-base", files=files, modes=modes, scripts={".post-install": noting()})
    mine = {"uid": 4321, "gid": 4321, "uname": "timed", "gname": "timed"}
    lab.package(
        "aa-timed",
        "4.5-r1",
        files={"usr/sbin/timed": b"1"},
        extra=[
            (TarEntry("var", "dir", 0o755, uname="root", gname="root"), None),
            (TarEntry("var/lib", "dir", 0o755, uname="root", gname="root"), None),
            (TarEntry("var/lib/timed", "dir", 0o750, **mine), None),  # type: ignore[arg-type]
            (TarEntry("var/lib/timed/drift", "file", 0o2755, **mine), b"0"),  # type: ignore[arg-type]
            (TarEntry("var/lib/timed/link", "symlink", 0o777, target="/etc/passwd", **mine), None),  # type: ignore[arg-type]
        ],
        depends=("zz-base",),
        scripts={
            ".pre-install": noting("groupadd -r timed && useradd -r -M -g timed timed"),
            ".post-install": noting("ls -ln /var/lib/timed/drift >>/log"),
        },
    )
    lab.package("mm-index", triggers=("/usr/sbin", "/var/*"), scripts={".trigger": noting()}, depends=("aa-timed",))
    lab.package("mkinitfs", triggers=("/usr/*",), scripts={".trigger": noting()})
    return lab


def make(lab: Lab, *names: str) -> None:
    """The stages' work: a root without scripts, and what it still has to run."""
    lab.publish()
    log = lab.root.parent / "installed"
    log.write_text(lab.add("--no-scripts", *names))
    lay(lab, log)
    shutil.copy(RUNNER, lab.root / "bin/scripts")


def lay(lab: Lab, log: Path, status: int = 0) -> str:
    """The stage's own program."""
    (lab.root.parent / "repositories").write_text(f"{lab.repository}\n")
    argv = [sys.executable, str(PENDING), str(lab.root), "x86_64", str(lab.root.parent / "repositories"), str(log)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == status, done.stderr
    return done.stderr


def start(lab: Lab, *arguments: str, limit: int = 20) -> subprocess.CompletedProcess[str]:
    argv = ["chroot", str(lab.root), "/bin/scripts", *arguments]
    env = {"PATH": os.environ["PATH"], "SECRET": "of the starter", "SCRIPTS_LIMIT": str(limit)}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=env)


def pending(lab: Lab) -> list[str]:
    return start(lab, "--list").stdout.splitlines()


def log_of(lab: Lab) -> list[str]:
    path = lab.root / "log"
    return path.read_text().splitlines() if path.exists() else []


def user_id(lab: Lab) -> int:
    return next(
        int(line.split(":")[2]) for line in (lab.root / "etc/passwd").read_text().splitlines() if line.startswith("timed:")
    )


STEPS_OF_DEVICE = [
    "zz-base-1.0-r0.post-install",
    "aa-timed-4.5-r1.pre-install",
    "aa-timed-4.5-r1.owners",
    "aa-timed-4.5-r1.post-install",
    "mm-index-1.0-r0.trigger",
]


def test_the_first_start_does_what_apk_would_have_done(device: Lab) -> None:
    make(device, "mm-index", "mkinitfs")
    assert log_of(device) == []
    assert pending(device) == STEPS_OF_DEVICE  # not by name, as the database is; the initramfs is another stage's
    folder, drift, link = (device.root / f"var/lib/timed{name}" for name in ("", "/drift", "/link"))
    for path in (folder, drift, link):  # until there is a user they are root's, not those of whoever has the number
        assert (path.lstat().st_uid, path.lstat().st_gid) == (0, 0)
    assert drift.stat().st_mode & 0o7777 == 0o755
    assert (device.root / STEPS).stat().st_mode & 0o777 == 0o700

    done = start(device)
    assert (done.returncode, done.stderr) == (0, "tower-scripts: nothing is pending; steps that ran: 5, that failed: 0\n")
    user = user_id(device)
    log = log_of(device)
    listed = log.pop(3)
    assert log == [
        "zz-base-1.0-r0.post-install 1.0-r0 user=",
        "aa-timed-4.5-r1.pre-install 4.5-r1 user=",
        "aa-timed-4.5-r1.post-install 4.5-r1 user=yes",
        "mm-index-1.0-r0.trigger /usr/sbin /var/lib user=yes",
    ]
    assert re.match(rf"-rwxr-sr-x +1 {user} ", listed), listed
    assert 100 <= user < 1000
    for path in (folder, drift, link):
        assert path.lstat().st_uid == user
    assert (folder.stat().st_mode & 0o7777, drift.stat().st_mode & 0o7777) == (0o750, 0o2755)
    assert (device.root / "etc/passwd").stat().st_uid == 0  # the link was not followed
    assert not (device.root / STEPS).exists()

    assert start(device).returncode == 0
    assert len(log_of(device)) == 5


def test_scripts_have_apks_environment_and_no_more(device: Lab) -> None:
    device.package("env", scripts={".post-install": script("cd . && env >/env; pwd >>/env")}, depends=("zz-base",))
    make(device, "env")
    assert start(device).returncode == 0
    found = {
        line for line in (device.root / "env").read_text().splitlines() if not line.startswith(("PWD=", "SHLVL=", "OLDPWD="))
    }
    assert found == {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "APK_SCRIPT=post-install", "APK_PACKAGE=env", "/"}


@pytest.fixture
def waiting(device: Lab) -> Iterator[Lab]:
    """Its first start was cut off in the middle of a script."""
    device.package("late", depends=("aa-timed",), scripts={".post-install": noting("touch /reached; [ -e /go ] || sleep 60")})
    make(device, "late", "mm-index")
    starting = subprocess.Popen(["chroot", str(device.root), "/bin/scripts"], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not (device.root / "reached").exists():
            assert starting.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.killpg(starting.pid, signal.SIGKILL)
        starting.wait()
    (device.root / "go").touch()
    yield device


def test_a_power_cut_goes_on_where_it_was(waiting: Lab) -> None:
    assert pending(waiting) == ["late-1.0-r0.post-install", "mm-index-1.0-r0.trigger"]
    assert start(waiting).returncode == 0
    names = [line.split()[0] for line in log_of(waiting) if line.endswith(("user=", "user=yes"))]
    late = "late-1.0-r0.post-install"
    assert names == [STEPS_OF_DEVICE[0], STEPS_OF_DEVICE[1], STEPS_OF_DEVICE[3], late, late, STEPS_OF_DEVICE[4]]
    assert not (waiting.root / STEPS).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo no such thing >&2; exit 7", "bad-1.0-r0.pre-install failed with status 7: no such thing"),
        ("sleep 30", r"bad-1.0-r0.pre-install failed with status (143|124)"),
    ],
)
def test_what_fails_is_said_and_the_rest_runs(device: Lab, text: str, said: str) -> None:
    device.package("bad", depends=("zz-base",), scripts={".pre-install": script(text), ".post-install": noting()})
    make(device, "bad", "mm-index")
    began = time.monotonic()
    done = start(device, limit=1)
    assert time.monotonic() - began < 15  # nor is what the script leaves running waited for
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    assert {"bad-1.0-r0.post-install 1.0-r0 user=", "mm-index-1.0-r0.trigger /usr/sbin /var/lib user=yes"} <= {
        line if line.startswith("mm") else re.sub("user=.*", "user=", line) for line in log_of(device)
    }
    assert not (device.root / STEPS).exists()


def test_an_owner_whom_no_script_makes_is_said(device: Lab) -> None:
    stranger = TarEntry("srv", "dir", 0o755, uid=555, gid=555, uname="stranger", gname="root")
    device.package("odd", depends=("zz-base",), extra=[(stranger, None)])
    make(device, "odd")
    done = start(device)
    assert done.returncode == 1
    assert "odd-1.0-r0.owners failed" in done.stderr
    assert (device.root / "srv").stat().st_uid == 0


def test_apk_3_keeps_scripts_in_another_way(device: Lab) -> None:
    make(device, "mm-index")
    database = device.root / "lib/apk/db"
    out = io.BytesIO()
    with tarfile.open(database / "scripts.tar") as before, tarfile.open(fileobj=out, mode="w") as after:
        for member in before:
            found = re.fullmatch(r"(.*\.)Q1(.{27}=)(\..*)", member.name)
            assert found
            content = before.extractfile(member)
            member.name = f"{found[1]}X1{base64.b64decode(found[2]).hex()}{found[3]}"
            after.addfile(member, content)
    (database / "scripts.tar.gz").write_bytes(gzip.compress(out.getvalue()))
    (database / "scripts.tar").unlink()
    lay(device, device.root.parent / "installed")
    assert pending(device) == STEPS_OF_DEVICE


def without(lines: Sequence[str], word: str) -> str:
    return "\n".join(line for line in lines if word not in line)


def test_the_order_must_be_known_of_all(device: Lab) -> None:
    make(device, "mm-index")
    log = device.root.parent / "installed"
    log.write_text(without(log.read_text().splitlines(), "aa-timed"))
    assert "differ in: aa-timed-4.5-r1" in lay(device, log, status=1)


def test_a_path_out_of_the_root_is_refused(device: Lab) -> None:
    make(device, "mm-index")
    outside = device.root.parent / "outside"
    shutil.move(device.root / "var/lib/timed", outside)
    (device.root / "var/lib/timed").symlink_to(outside)
    assert "lies outside of the root" in lay(device, device.root.parent / "installed", status=1)
