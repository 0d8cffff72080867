# SPDX-License-Identifier: Apache-2.0
"""A host's first start, by the product alone: ready and answering, after any cut, or closed with its reason on the console."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from pipeline.light.shelf import Shelf
from pipeline.light.switches import Interface
from tests.network.home import FOLDER, User
from tests.network.machines import USER, Machine, MachinePlan, Tower, boot_files

LOG = "var/log/tower-setup.log"
STEPS = [
    "name", "user", "ssh_server", "keyboard", "clock", "language", "prompt", "network", "firewall", "wlan", "tor", "names",
    "time_source", "receipt", "secrets", "ready",
]  # fmt: skip
_PREPARE = r"""
from dataclasses import replace
from pathlib import Path
from tower.provision import provision
from tower.image.blockmap import BlockMap
from tower.hosts.env import Encryption
from tower.base.names import HostName, UserName
from tower.provision.provision import Wish
from tower.disk.receipt import Stage, Target
from tower.hosts.settings import Settings
from tower.image.source import ImageSource
from tower.hosts.registry import tower_of_user
tower = tower_of_user()
type(tower).check_new = lambda *_, **__: None  # the router of the ring is no host of this user
settings = Settings("fr", "fr", "Europe/Paris", "fr_FR.UTF-8")
wish = Wish(HostName(NAME), False, UserName("al"), settings, None, None, Encryption.NONE)
source = ImageSource(Path("/none.img"), "1.0", "lab", "lab", False, "0" * 64, None)
host = provision.prepare(tower, wish, source, Target("/none", 1, "", "", "file"))
provision.keep_receipt(host, provision.read_receipt(host).at(Stage.WRITTEN))
print(host.env.address)
"""


def plan_of(name: str, number: int = 220) -> MachinePlan:
    return MachinePlan(name, "offline", (Interface("eth0", "offline", f"192.168.3.{number}"),))


@contextmanager
def new_host(on: Shelf, plan: MachinePlan) -> Iterator[Machine]:
    """A host that was never started."""
    with ExitStack() as stack:
        yield Machine(plan.name, on, plan.root, on.disk(stack), ("firewall",), stack, plan)


def lay(files: dict[str, bytes]) -> Callable[[Machine], None]:
    def before(machine: Machine) -> None:
        for name, data in files.items():
            machine.path(f"boot/{name}").write_bytes(data)

    return before


def boot_partition(machine: Machine) -> set[str]:
    return {path.name for path in machine.path("boot").iterdir()}


def all_that_is_set(machine: Machine) -> dict[str, str]:
    """What the steps leave, but for what differs between any two hosts."""
    files = (
        "etc/hostname", "etc/hosts", "etc/passwd", "etc/group", "etc/shadow", "etc/ssh/sshd_config.d/host.conf",
        "etc/conf.d/loadkmap", "etc/locale.conf",
        "etc/profile.d/10tower-lang.sh", "etc/profile.d/tower_host.sh", "etc/motd", "etc/network/interfaces",
        "etc/tower/firewall.env", "etc/chrony/chrony.conf", "etc/tower/tower-receipt.json", f"home/{USER}/.ssh/authorized_keys",
        "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub",
    )  # fmt: skip
    modes = {name: oct(machine.path(name).stat().st_mode) for name in files}
    owners = {name: str(machine.path(name).stat().st_uid) for name in files}
    return {name: f"{modes[name]} {owners[name]}\n{machine.read(name)}" for name in files}


@pytest.mark.qa("H04")
@pytest.mark.qa("H05")
@pytest.mark.qa("H06")
@pytest.mark.qa("H09")
@pytest.mark.qa("H12")
@pytest.mark.qa("H14")
@pytest.mark.qa("H18")
def test_a_host_makes_itself_ready_and_answers(machines: Tower, on_shelf: Shelf) -> None:
    """From the folder that `tower provision` makes, to the answer that it waits for."""
    client = User(machines["thinclient"])
    client.machine.run("rm", "-rf", FOLDER)
    machines.set_firewalls()
    address = client.python(f"NAME = 'vault'\n{_PREPARE}").strip()
    folder = client.machine.path(f"{FOLDER}/hosts/vault")
    names = ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json")
    files = {name: (folder / name).read_bytes() for name in names}
    # The ring has machines with the first addresses already.
    machines["offline1"].pull_the_plug()
    with new_host(on_shelf, plan_of("vault", int(address.rpartition(".")[2]))) as host:
        machines.turn_on(host, before=lay(files))
        done = client.tower("provision", "--resume", "vault", "--timeout", "60", "--json", timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["state"], found["next"]) == ("answered", "ssh vault")
        ssh = ("ssh", "-n", "-oBatchMode=yes", "vault")
        assert client.machine.run(*ssh, "hostname; id -un; doas -n id -un; date +%Z").stdout.split()[:3] == [
            "vault",
            "al",
            "root",
        ]
        assert client.machine.run(*ssh, "date +%z").stdout.strip() in {"+0100", "+0200"}
        shown = client.machine.run(*ssh, '. /etc/profile; printf %s "$LANG"; echo; printf %s "$PS1"').stdout
        color = next(line[7:-1] for line in files["tower.env"].decode().splitlines() if line.startswith("COLOR="))
        red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        assert shown == f"fr_FR.UTF-8\n\\[\\033[38;2;{red};{green};{blue}m\\][\\u@\\h \\W]\\$\\[\\033[0m\\] "
        assert host.listeners() == [(address, 22)]
        assert host.read("etc/conf.d/loadkmap") == "KEYMAP=/etc/keymap/fr.bmap.gz\n"
        assert host.firewall("check").returncode == 0
        assert host.read("etc/motd") == ""
        # Secrets are gone from the boot partition, and the log and the system's own log never had one.
        assert boot_partition(host) == {"tower-receipt.json"}
        said = "".join(host.read(name) for name in (LOG, "var/log/messages", "run/light-console"))
        for secret in (files["ssh_host_ed25519_key"].decode().splitlines()[1], "$6$", "PASSWORD_HASH"):
            assert secret not in said
        # Another start changes nothing, and needs no boot partition.
        before = host.read("etc/shadow")
        host.pull_the_plug()
        machines.turn_on(host)
        host.wait_for_listener(22)
        assert host.read("etc/shadow") == before
        assert client.machine.run(*ssh, "echo again").stdout == "again\n"
    machines.turn_on(machines["offline1"])


def test_the_thin_client_shows_each_step_and_the_reason_of_a_failure(machines: Tower, on_shelf: Shelf) -> None:
    client = User(machines["thinclient"])
    client.machine.run("rm", "-rf", FOLDER)
    machines.set_firewalls()
    address = client.python(f"NAME = 'slow'\n{_PREPARE}").strip()
    folder = client.machine.path(f"{FOLDER}/hosts/slow")
    names = ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json")
    files = {name: (folder / name).read_bytes() for name in names}
    machines["offline1"].pull_the_plug()

    def prepare(machine: Machine) -> None:
        lay(files)(machine)
        # It waits at its first step until somebody reads its log.
        os.mkfifo(machine.path(LOG))

    resume = ("provision", "--resume", "slow", "--json", "--timeout")
    with new_host(on_shelf, plan_of("slow", int(address.rpartition(".")[2]))) as host:
        machines.begin(host, before=prepare)
        host.wait_for_listener(22, 60)
        # The thin client knows offline1 by this address.
        client.machine.run("ip", "neigh", "flush", "all")
        # It is no ssh server, and talks with the thin client alone.
        assert host.running("sshd") == []
        done = client.tower(*resume, "1", timeout=60)
        assert done.returncode == 15, done.stderr
        assert "slow: makes itself ready" in done.stderr
        assert "slow: step 1 of 15, name (usually under 1 s)" in done.stderr
        assert client.machine.run("ssh", "-n", "-oBatchMode=yes", "slow", "true", check=False).returncode == 255
        other = machines["offline2"].run("timeout", "2", "ssh", "-vn", "-oBatchMode=yes", f"x@{address}", check=False)
        assert "Connection established" not in other.stderr, other.stderr
        # A step that fails: its reason arrives, and the host stays closed.
        host.run("sh", "-c", "rm -rf /etc/chrony && : >/etc/chrony")
        steps = Steps(host)
        steps.wait_for(14)
        done = client.tower(*resume, "60", timeout=120)
        assert done.returncode == 15, done.stderr
        assert "slow: its first start failed: time_source: " in done.stderr
        assert "slow: step 13 of 15, time_source (usually under 1 s)" in done.stderr
        assert "slow: step 8 of 15, network: " in done.stderr
        host.wait_until_up()
        assert host.running("sshd") == []
        assert host.firewall("check").returncode == 0
        assert "its first start failed: time_source: " in client.tower(*resume, "60", timeout=120).stderr
        host.pull_the_plug()
        steps.close()

        def mended(machine: Machine) -> None:
            machine.path(LOG).unlink()
            machine.path("etc/chrony").unlink()

        machines.turn_on(host, before=mended)
        done = client.tower(*resume, "60", timeout=120)
        assert done.returncode == 0, done.stderr
        assert host.listeners() == [(address, 22)]
        assert host.running("libexec/tower/progress") == []
        assert not host.path("run/tower-progress").exists()
    machines.turn_on(machines["offline1"])


class Steps:
    """Reads the host's log of steps, a FIFO: the host waits at its first line until this is opened.

    It stays open until the power is cut: a writer that loses its reader would fail with a broken pipe.
    """

    def __init__(self, machine: Machine) -> None:
        self._descriptor = os.open(machine.path(LOG), os.O_RDONLY | os.O_NONBLOCK)
        self._data = b""

    def said(self) -> list[str]:
        """The steps so far."""
        with suppress(BlockingIOError):
            self._data += os.read(self._descriptor, 1 << 16)
        return [line.split()[1].decode() for line in self._data.splitlines(keepends=True) if line.endswith(b"\n")]

    def wait_for(self, lines: int, seconds: float = 60) -> None:
        """Until so many steps are said, or it is ready."""
        ends = time.monotonic() + seconds
        while len(said := self.said()) < lines and "ready" not in said:
            assert time.monotonic() < ends, f"it has said nothing but {said}"
            time.sleep(0.002)

    def close(self) -> list[str]:
        """All that it said."""
        said = self.said()
        os.close(self._descriptor)
        return said


def test_a_power_cut_at_each_step_changes_nothing(machines: Tower, on_shelf: Shelf) -> None:
    """Cut off again and again, each time one step further: the host is the same in the end, and was never open before."""
    plan = plan_of("cut")
    files = boot_files(plan)

    def prepare(machine: Machine) -> None:
        if not machine.path(LOG).exists():
            lay(files)(machine)
            os.mkfifo(machine.path(LOG))
            # What a cut amid `adduser` leaves: it refused to start again, and the host stayed closed.
            for name in ("passwd", "shadow", "group"):
                machine.path(f"etc/{name}+").touch()

    with new_host(on_shelf, plan) as whole, new_host(on_shelf, plan) as cut:
        machines.turn_on(whole, before=lay(files))
        expected = all_that_is_set(whole)
        assert [line.split()[1] for line in whole.read(LOG).splitlines()] == STEPS
        whole.pull_the_plug()
        seen: list[str] = []
        # The first step is cut off before it has begun, each other one as soon as it has.
        for _ in range(2 * len(STEPS)):
            machines.begin(cut, before=prepare)
            steps = Steps(cut)
            steps.wait_for(2 if seen else 1)
            listeners, sshd = cut.listeners(), cut.running("sshd")
            cut.pull_the_plug()
            said = steps.close()
            # Nothing listens before all is done, but what tells the thin client how far it is.
            assert (sshd == [] and {port for _, port in listeners} <= {22}) or "ready" in said, (listeners, said)
            assert not seen or said[0] in (seen[-1], STEPS[(STEPS.index(seen[-1]) + 1) % len(STEPS)]), (seen, said)
            seen += said
            if "ready" in said:
                break
        assert set(seen) == set(STEPS)

        def log_again(machine: Machine) -> None:
            assert stat.S_ISFIFO(machine.path(LOG).stat().st_mode)
            machine.path(LOG).unlink()

        machines.turn_on(cut, before=log_again)
        cut.wait_for_listener(22)
        assert all_that_is_set(cut) == expected
        assert boot_partition(cut) == {"tower-receipt.json"}


def test_a_boot_device_pulled_out_before_the_last_step_is_named(machines: Tower, on_shelf: Shelf) -> None:
    """What could not be removed from it is removed at the next start, and the host is closed until then."""
    plan = plan_of("pulled")
    files = boot_files(plan)

    def prepare(machine: Machine) -> None:
        # As it is when the power was cut in the last step.
        machine.path("var/lib/tower/setup/done").unlink()
        lay(files)(machine)
        # The machine waits when it says the step, until somebody reads its log.
        machine.path(LOG).unlink()
        os.mkfifo(machine.path(LOG))
        machine.write("var/log/messages", "")
        # A light machine has no disks: these are the kernel's files about one.
        number = machine.path("boot").stat().st_dev
        stick = machine.path("opt/sys/block/sda")
        (stick / "sda1").mkdir(parents=True)
        (stick / "device").mkdir()
        (stick / "device/model").write_text("STICK   \n")
        (stick / "size").write_text("4194304\n")
        machine.path("opt/sys/dev/block").mkdir(parents=True)
        machine.path(f"opt/sys/dev/block/{os.major(number)}:{os.minor(number)}").symlink_to("../../block/sda/sda1")
        machine.write("etc/conf.d/tower-setup", "export SETUP_SYS=/opt/sys\n")

    with new_host(on_shelf, plan) as host:
        machines.turn_on(host, before=lay(files))
        host.wait_for_listener(22)
        host.pull_the_plug()
        machines.begin(host, before=prepare)
        ends = time.monotonic() + 60
        while "tower-setup: secrets\n" not in host.read("var/log/messages"):
            assert time.monotonic() < ends, host.read("run/light-console")
            time.sleep(0.02)
        shutil.rmtree(host.path("opt/sys/block/sda"))
        steps = Steps(host)
        host.wait_until_up()
        console = host.read("run/light-console")
        out = "secrets: the boot device, sda (STICK, 2147 MB), was taken out: put it in, and switch this host off and on"
        assert f"tower-setup: {out}\n" in console, console
        assert "This host is not ready" in console
        assert host.running("sshd") == []
        assert host.listeners() == []
        assert not host.path("var/lib/tower/setup/done").exists()
        host.pull_the_plug()
        # OpenRC has tried once more, for sshd, and that did not begin the step again.
        assert steps.close() == ["secrets", "failed:", "failed:"]

        def put_in(machine: Machine) -> None:
            machine.path(LOG).unlink()
            machine.path("etc/conf.d/tower-setup").unlink()

        machines.turn_on(host, before=put_in)
        host.wait_for_listener(22)
        assert boot_partition(host) == {"tower-receipt.json"}
        assert [line.split()[1] for line in host.read(LOG).splitlines()] == ["secrets", "ready"]


def _changed(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


def _others_key(files: dict[str, bytes]) -> None:
    files.update({name: data for name, data in boot_files(plan_of("other")).items() if name.startswith("ssh_host")})


def _half_of_others_key(files: dict[str, bytes]) -> None:
    files["ssh_host_ed25519_key"] = boot_files(plan_of("odd"))["ssh_host_ed25519_key"]


BAD: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no settings": (lambda files: files.pop("tower.env"), "/boot/tower.env: is not there: write the boot device with"),
    "CRLF": (_changed("tower.env", b"\n", b"\r\n"), "/boot/tower.env: has the line ends of another system (CRLF)"),
    "a system's user": (_changed("tower.env", b"USERNAME='user'", b"USERNAME='sshd'"), "the system has 'sshd' for itself"),
    "encryption": (_changed("tower.env", b"'none'", b"'required'"), "ENCRYPTION asks for an encrypted disk"),
    "no key": (lambda files: files.pop("ssh_host_ed25519_key"), "/boot/ssh_host_ed25519_key: is missing"),
    "the key of another host": (_others_key, "is the key of host 'other', this one is odd"),
    "half a key of another": (_half_of_others_key, "does not belong to /boot/ssh_host_ed25519_key.pub"),
    "the receipt of another": (_changed("tower-receipt.json", b'"odd"', b'"web"'), "is of host 'web', this one is odd"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_input_changes_nothing_and_opens_nothing(machines: Tower, on_shelf: Shelf, case: str) -> None:
    change, said = BAD[case]
    files = boot_files(plan_of("odd"))
    change(files)
    with new_host(on_shelf, plan_of("odd")) as host:
        machines.turn_on(host, before=lay(files))
        console = host.read("run/light-console")
        assert said in console, console
        assert "This host is not ready" in console
        assert host.listeners() == []
        assert boot_partition(host) == set(files)
        for name in ("etc/passwd", "etc/shadow", "etc/hostname", "etc/network/interfaces"):
            assert host.path(name).read_bytes() == host.original(name).read_bytes(), name
        assert host.firewall("check").returncode == 0
        # Written again, it goes on.
        host.pull_the_plug()
        machines.turn_on(host, before=lay(boot_files(plan_of("odd"))))
        host.wait_for_listener(22)


def test_two_hosts_with_one_address(machines: Tower, on_shelf: Shelf) -> None:
    """Somebody copied a boot device: the second host of that address stays closed, says whose it is, and goes on without it."""
    first, second = plan_of("first", 230), MachinePlan("second", "offline", (Interface("eth0", "offline", "192.168.3.230"),))
    files = boot_files(first)
    with new_host(on_shelf, first) as host, new_host(on_shelf, second) as copy:
        machines.turn_on(host, before=lay(files))
        host.wait_for_listener(22)
        machines.turn_on(copy, before=lay(files))
        console = copy.read("run/light-console")
        address = host.run("cat", "/sys/class/net/eth0/address").stdout.strip()
        assert f"network: 192.168.3.230 belongs to the machine with the hardware address {address} already" in console, console
        assert "This host is not ready" in console
        assert copy.running("sshd") == []
        assert boot_partition(copy) == set(files)
        host.pull_the_plug()
        copy.pull_the_plug()
        machines.turn_on(copy)
        copy.wait_for_listener(22)
