# SPDX-License-Identifier: Apache-2.0
"""`tower` by several users of one machine: what `sudo tower` leaves in a home, and what its owner is told of root's files there.

Real users: in a mount namespace of its own, where nobody needs a right to the folders of whoever runs the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.unit.runtime.disks import make_image
from tests.unit.runtime.test_refused import ALOOF, COMMANDS, HOSTLESS

USER = 65534
STAGE = """\
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/home /mnt/python /mnt/tree /mnt/site /mnt/builds
mount --bind "$1" /mnt/tree
mount --bind "$2" /mnt/site
mount --bind "$3" /mnt/builds
ln -s /mnt/tree/runtime /mnt/python/tower
chown 65534:65534 /mnt/home
export HOME=/mnt/home PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/mnt/python:/mnt/site PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
cd /mnt/home
python=$4
python() { "$python" "$@"; }
user() { [ "$1" != python ] || { shift; set -- "$python" "$@"; }; setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_image(tmp_path_factory.mktemp("builds"), compress="zstd")
    made.parent.chmod(0o755)
    return made


def play(checkout: Path, image: Path, script: str) -> str:
    """What a script says in the namespace; it has `user`, which runs a command as the home's owner."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    folders = (str(checkout), sysconfig.get_path("purelib"), str(image.parent), os.path.realpath(sys.executable))
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", STAGE + script, "sh", *folders]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_sudo_tower_leaves_nothing_of_roots(checkout: Path, image: Path) -> None:
    """The home is the user's, as with `sudo -E`, or where sudo keeps HOME."""
    said = play(
        checkout,
        image,
        f"""
        export SUDO_USER=nobody
        common="--offline --username alice --device-file disk --image /mnt/builds/{image.name} --unsigned --no-wait --yes"
        umask 077
        python -P -m tower provision vault $common >&2
        python -P -m tower provision other $common --device-file other >&2
        python -P -m tower deprovision other --yes >&2
        python -P -m tower mdhelp --man man/man1 >&2
        find /mnt/home ! -uid 65534
        unset SUDO_USER
        user python -P -m tower provision --resume vault --no-wait >&2
        user python -P -m tower deprovision vault --yes
        """,
    )
    assert said.split() == ["host", "vault", "state", "forgotten"]


def test_every_command_says_how_to_get_roots_files_back(checkout: Path, image: Path) -> None:
    commands = {name: list(argv) for name, argv in COMMANDS.items() if name not in ALOOF | HOSTLESS}
    commands["resume"] = ["provision", "--resume", "vault"]
    lines = "".join(f"user python -P -m tower {' '.join(argv)} 2>&1 || echo status $?\necho ---\n" for argv in commands.values())
    new = (
        f"user python -P -m tower provision vault --offline --username alice --device-file disk --image /mnt/builds/{image.name}"
    )
    said = play(
        checkout,
        image,
        f"{new} --unsigned --no-wait --yes >&2\nchown -R 0:0 .local/tower\n: >x\n{lines}"
        "chown 65534 .local/tower\nuser python -P -m tower deprovision vault --yes 2>&1 || echo status $?\n",
    )
    for name, answer in zip([*commands, "a part of it"], said.split("---\n"), strict=True):
        place = "/mnt/home/.local/tower" if name != "a part of it" else "/mnt/home/.local/tower/hosts"
        assert answer.endswith(f"chown -R nobody {place}\nstatus 12\n"), (name, answer)
