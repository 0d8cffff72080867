# SPDX-License-Identifier: Apache-2.0
"""A Tower of light machines that `tower` itself has set up: its user, its hosts with their keys, and their first starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, RECEIPT_ON_BOOT

from pipeline.base import proc
from pipeline.base.scratch import temporary_folder
from pipeline.light.services import add_user
from pipeline.light.shelf import shelf
from pipeline.light.switches import start_in_network_of
from pipeline.sim.machines import INTERNET_ADDRESS, NAMED_ADDRESS, USER, Machine, Tower, assembled
from pipeline.sim.plans import SIM, THIN_CLIENT, WIFI

MIRROR_NAME: Final = "alpine.test"
"""The server of packages that the lab's devices know."""
PAGE: Final = (0x3C, 0x8C, 0x64)
"""The colour of the only page of the simulated Internet."""
_SECONDS: Final = 180
_ENVIRONMENT: Final = {"PYTHONPATH": "/usr/lib/tower", "PYTHONDONTWRITEBYTECODE": "1"}
_FILES: Final = (ENV, KEY_FILE, HOST_KEY, f"{HOST_KEY}.pub", RECEIPT_ON_BOOT)
"""What `tower provision` lays on a host's boot partition."""
# All of `tower provision` except writing a disk: a light machine has none.
_PREPARE: Final = r"""
import sys
from pathlib import Path
from tower.base.jsontext import parse_json
from tower.base.names import HostName, UserName
from tower.base.version import OS_RELEASE, read_os_release
from tower.disk.receipt import Stage, Target
from tower.hosts.env import Encryption, Wlan
from tower.hosts.registry import tower_of_user
from tower.hosts.settings import Settings
from tower.image.source import ImageSource
from tower.provision import provision
name, online, user, wifi = parse_json(sys.stdin.buffer.read())
system = read_os_release(OS_RELEASE)
wlan = Wlan(wifi, "0" * 64) if wifi else None
wish = provision.Wish(HostName(name), online, UserName(user), Settings("us", "us", "UTC", "C.UTF-8"), wlan, None, Encryption.NONE)
source = ImageSource(
    Path("/light.img"), system["VERSION_ID"], system["TOWER_CHANNEL"], system["TOWER_BRANCH"], False, "0" * 64, None
)
tower = tower_of_user()
host = provision.prepare(tower, wish, source, Target("/light", 1, "", "", "file"))
provision.keep_receipt(host, provision.read_receipt(host).at(Stage.WRITTEN))
print(host.folder)
"""


@contextmanager
def light_tower(roots: Mapping[str, Path], mirror: Path | None, say: Callable[[str], object]) -> Iterator[Tower]:
    """Start the machines one by one; all of them end with the context. `say` is called with lines about the progress.

    `mirror` is a folder of packages that the simulated Internet serves.

    Raises BootError or ToolError if one does not come up.
    """
    say("unpacking the roots of the machines")
    with shelf(roots) as on, assembled(on, SIM) as made, temporary_folder("sim") as folder:
        for machine in made:
            say(f"{machine.name}: starting")
            if machine.plan.is_host:
                _provision(made[THIN_CLIENT], machine, made)
            else:
                made.turn_on(machine)
            if machine.name == THIN_CLIENT:
                add_user(machine, USER, administrator=True)
            if machine.plan.role is None:
                _serve(machine, folder, mirror)
        yield made


def _as_user(client: Machine, *argv: str, data: str = "") -> str:
    return client.run(*argv, data=data, user=USER, env=_ENVIRONMENT, timeout=_SECONDS).stdout


def _provision(client: Machine, host: Machine, made: Tower) -> None:
    """Let the thin client make the host's keys and settings, start the host with them, and wait for its answer."""
    plan = host.plan
    wish = [host.name, plan.role != "offline", USER, WIFI if plan.role == "router" else ""]
    folder = _as_user(client, "python3", "-c", _PREPARE, data=json.dumps(wish)).strip()
    files = {name: client.path(f"{folder}/{name}").read_bytes() for name in _FILES}
    made.turn_on(host, before=lambda machine: machine.lay_on_boot(files))
    _as_user(client, "tower", "provision", "--resume", host.name, "--timeout", str(_SECONDS - 30), "--json")


def _serve(machine: Machine, folder: Path, mirror: Path | None) -> None:
    """Serve a page, the packages of a mirror, and the name of its server in the simulated Internet."""
    colour = "#{:02x}{:02x}{:02x}".format(*PAGE)
    (folder / "index.html").write_text(f'<body bgcolor="{colour}"><h1>The pretended Internet</h1>\n')
    if mirror is not None:
        for branch in mirror.glob("v*"):
            (folder / branch.name).symlink_to(branch)
    server = start_in_network_of(machine.pid, ("busybox", "httpd", "-f", "-p", "80", "-h", str(folder)))
    machine.stack.callback(server.wait)
    machine.stack.callback(proc.kill_group, server.pid)
    machine.wait_for_listener(80)
    serve_names(machine, {MIRROR_NAME: NAMED_ADDRESS})


def serve_names(machine: Machine, names: Mapping[str, str]) -> None:
    """Resolve names in the simulated Internet, to these addresses."""
    # `local`: for any other kind of address the answer is that there is none.
    found = (word for name, address in names.items() for word in (f"--address=/{name}/{address}", f"--local=/{name}/"))
    listening = ("--bind-interfaces", f"--listen-address={INTERNET_ADDRESS}")
    machine.run("dnsmasq", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", *listening, *found)
    machine.wait_for_listener(53)
