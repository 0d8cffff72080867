# SPDX-License-Identifier: Apache-2.0
"""Container engines of a test's own on this machine, of every kind that the factory works with.

Each has its files in one folder, shares nothing with the machine's usual engine but the kernel, and has no network.
Rootless ones run as a user that only they know: in a mount namespace with an /etc of its own, for its passwd and subordinate ids.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import docker
import pytest

DOCKER, DOCKER_ROOTLESS, PODMAN, PODMAN_ROOTLESS = "docker", "docker-rootless", "podman", "podman-rootless"
_NEEDS = {
    DOCKER: ("dockerd",),
    DOCKER_ROOTLESS: ("dockerd", "rootlesskit", "newuidmap", "/usr/share/docker.io/contrib/dockerd-rootless.sh"),
    PODMAN: ("podman", "runc"),
    PODMAN_ROOTLESS: ("podman", "runc", "newuidmap"),
}
_START_SECONDS = 60
_END_SECONDS = 30
_NO_NETWORK = ("--bridge=none", "--iptables=false", "--ip-forward=false")
# Locks and notes that Podman would keep in places of the machine; runc is the runtime that every kernel takes.
_PODMAN = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{folder}/run/libpod"
static_dir = "{folder}/data/libpod"
volume_path = "{folder}/data/volumes"
"""
# As the user of number $2, who is called tower-test here and owns $3 and the 65535 numbers after it as well.
_AS_USER = """\
set -eu
folder=$1 user=$2 first=$3
shift 3
mkdir -p "$folder/etc/upper" "$folder/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$folder/etc/upper,workdir=$folder/etc/work" overlay /etc
echo "tower-test:x:$user:$user::$folder:/bin/sh" >>/etc/passwd
echo "tower-test:x:$user:" >>/etc/group
echo "tower-test:$first:65536" | tee /etc/subuid >/etc/subgid
chown "$user:$user" "$folder" "$folder/run" "$folder/data"
cd "$folder"
exec setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
"""


class OwnEngine:
    """An engine of a kind; skips the test where it cannot run."""

    def __init__(self, kind: str) -> None:
        missing = [name for name in _NEEDS[kind] if shutil.which(name) is None]
        if os.geteuid() or missing:
            pytest.skip(f"a {kind} engine needs root and {', '.join(_NEEDS[kind])}")
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="tower-engine-", dir="/var/tmp"))  # overlayfs wants a disk
        self.folder.chmod(0o755)
        for name in ("run", "data"):
            (self.folder / name).mkdir(mode=0o700)
        self.address = f"unix://{self.folder}/run/docker.sock"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        run = f"{self.folder}/run"
        env = {"PATH": path, "HOME": str(self.folder), "XDG_RUNTIME_DIR": run, "TMPDIR": run}
        argv, extra = self._podman() if self.kind.startswith(PODMAN) else self._docker()
        if self.kind.endswith("rootless"):
            number = os.getpid() % 4000
            start = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _AS_USER, "bash", str(self.folder)]
            argv = [*start, str(61000 + number), str((number + 16) << 16), *argv]
        with (self.folder / "log").open("ab") as log:
            self.engine = subprocess.Popen(argv, env={**env, **extra}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not answers(self.address):
            assert self.engine.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def _docker(self) -> tuple[list[str], dict[str, str]]:
        places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        if self.kind == DOCKER_ROOTLESS:
            script, kit = "/usr/share/docker.io/contrib/dockerd-rootless.sh", "DOCKERD_ROOTLESS_ROOTLESSKIT_"
            words = ["--data-root", f"{self.folder}/data", *_NO_NETWORK]
            return [script, *words], {f"{kit}NET": "host", f"{kit}PORT_DRIVER": "none"}
        words = [word for name, place in places.items() for word in (name, f"{self.folder}/{place}")]
        return ["dockerd", *words, "--host", self.address, *_NO_NETWORK], {}

    def _podman(self) -> tuple[list[str], dict[str, str]]:
        settings = self.folder / "containers.conf"
        settings.write_text(_PODMAN.format(folder=self.folder))
        places = ["--root", f"{self.folder}/data/storage", "--runroot", f"{self.folder}/run/containers"]
        return ["podman", *places, "system", "service", "--time=0", self.address], {"CONTAINERS_CONF": str(settings)}

    def kill(self) -> None:
        """As the kernel does it when memory is short: its containers live on."""
        self.engine.kill()
        self.engine.wait()
        # Its containerd goes with it; the next one would take the number in this note for a live one.
        for note in ("pid", "exec/containerd/containerd.pid"):
            (self.folder / note).unlink(missing_ok=True)

    def remove(self) -> None:
        """End it and what it started, and remove all it had."""
        if self.engine.poll() is None:
            with suppress(docker.errors.DockerException, OSError):
                client = docker.DockerClient(base_url=self.address, timeout=_END_SECONDS)
                for container in client.containers.list(all=True, ignore_removed=True):
                    container.remove(force=True, v=True)
                client.close()
            self.engine.terminate()
            self.engine.wait(_END_SECONDS)
        for process in Path("/proc").glob("[0-9]*"):  # what outlived it
            with suppress(OSError):
                if any(f"{self.folder}/".encode() in (process / name).read_bytes() for name in ("cmdline", "environ")):
                    os.kill(int(process.name), signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def answers(address: str) -> bool:
    """Whether an engine listens there."""
    try:
        return bool(docker.DockerClient(base_url=address, timeout=5).ping())
    except (docker.errors.DockerException, OSError):
        return False
