# SPDX-License-Identifier: Apache-2.0
"""Machines that ci/doit is tried on: each is a PATH of our own with real tools and pretended ones."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_REAL = (
    "bash", "cat", "chmod", "cp", "dirname", "env", "flock", "id", "kill", "ln", "mkdir", "mount", "mv", "rm", "sed",
    "setsid", "sha256sum", "sleep", "tail", "touch", "true",
)  # fmt: skip
_NEEDED = ("apt-get", "depmod", "dockerd", "dpkg-deb", "gpgv", "loadkeys", "qemu-img", "xz", "zstd")

# Stands for the machine's Python, and in a "virtual environment" for that one's: notes what it is asked to do.
_PYTHON = """#!/bin/bash
echo "$*" >> "$NOTES/python"
case "$*" in
    -V) echo "Python 3.11.0" ;;
    "-m venv --prompt tower "*)
        mkdir -p "$5/bin" "$5/lib/python3.11/site-packages"; touch "$5/lib/python3.11/site-packages/__editable___finder.py"
        cp "$0" "$5/bin/python"; touch "$5/pyvenv.cfg"; echo "#!$5/bin/python" > "$5/bin/tool"; chmod +x "$5/bin/tool" ;;
    "-m venv "*) exit 9 ;;
    *"install "*"--require-hashes"*) sleep "${PIP_SECONDS:-0}"; exit "${PIP_STATUS:-0}" ;;
    "-m pipeline "* | "-m pipeline") echo "${HOME-none} $(umask)" > "$NOTES/found"; echo "doit runs $PWD ${*:3}" ;;
    "-I -S -"*) exec REAL "$@" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout of the entry alone, and the programs that it finds."""

    checkout: Path
    path: Path
    notes: Path

    def program(self, name: str, text: str) -> None:
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def environment(self, **extra: str) -> dict[str, str]:
        return {"PATH": str(self.path), "NOTES": str(self.notes), "DOCKER_HOST": "unix:///elsewhere", **extra}

    def doit(
        self, *args: str, user: int | None = None, umask: int = -1, env: Mapping[str, str] | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", self.checkout / "ci" / "doit", *args],
            env={**self.environment(**extra), **(env or {})}, user=user, group=user, extra_groups=None if user is None else [],
            capture_output=True, text=True, errors="surrogateescape", timeout=120, check=False, cwd="/", umask=umask,
        )  # fmt: skip

    def give(self, user: int) -> None:
        """Make the checkout and the notes the user's, and let everybody see the way to them."""
        for path in (self.checkout, self.notes, *self.checkout.rglob("*")):
            os.chown(path, user, user)
        for folder in itertools.takewhile(lambda one: one != Path(tempfile.gettempdir()), self.path.parents):
            folder.chmod(folder.stat().st_mode | 0o005)

    def noted(self, name: str, words: str) -> int:
        note = self.notes / name
        return note.read_text().count(words) if note.exists() else 0


def make_machine(folder: Path, checkout: Path, name: str = "check out") -> Machine:
    """A machine in `folder`, whose checkout is called `name`; the entry in it is that of `checkout`."""
    made = Machine(folder / name, folder / "bin", folder / "notes")
    for own in (made.checkout, made.path, made.notes):
        own.mkdir(parents=True)
    shutil.copytree(checkout / "ci", made.checkout / "ci")
    (made.checkout / "pyproject.toml").write_text("[project]\n")
    for program in _REAL:
        (made.path / program).symlink_to(shutil.which(program) or pytest.fail(f"{program}: not on this machine"))
    for program in _NEEDED:
        made.program(program, "#!/bin/bash\n")
    made.program("python3", _PYTHON.replace("REAL", shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"))
    return made


# An engine that answers pings, or one that cannot start. /run is a place of the test's own.
ENGINE = """#!/bin/bash
echo "level=info msg=starting"
exec REAL -c '
import os, pathlib, socket
pathlib.Path(os.environ["NOTES"], "engine").write_text(str(os.getpid()))
server = socket.socket(socket.AF_UNIX)
server.bind("/var/run/docker.sock")
server.listen()
while True:
    client = server.accept()[0]
    client.recv(1000)
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nOK")
    client.close()
'
"""


def doit_without_engine(
    machine: Machine, *args: str, alone: bool = False, user: int | None = None, umask: int = -1, first: str = ":"
) -> subprocess.CompletedProcess[str]:
    """Run it where /run is empty; `alone` with the programs of `machine` only, without those that this machine has.

    `first` is what root runs before it, in a shell.
    """
    path = str(machine.path) if alone else f"{machine.path}:/usr/bin:/bin"
    # ci/doit looks where the system administrator's programs are whatever the path says.
    hide = "; ".join(f"mount -t tmpfs tmpfs {folder}" for folder in ("/usr/sbin", "/usr/local/sbin"))
    hide += "; [ /sbin -ef /usr/sbin ] || mount -t tmpfs tmpfs /sbin"
    become = "" if user is None else f"/usr/bin/setpriv --reuid={user} --regid={user} --clear-groups"
    script = f'mount -t tmpfs tmpfs /run && {{ {first}; }} && {{ {hide if alone else ":"}; }} && exec {become} /bin/bash "$@"'
    argv = ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/bash", "-c", script, "bash"]
    return subprocess.run(
        [*argv, machine.checkout / "ci" / "doit", *args],
        env=machine.environment(DOCKER_HOST="", PATH=path),
        capture_output=True, text=True, timeout=120, check=False, umask=umask,
    )  # fmt: skip
