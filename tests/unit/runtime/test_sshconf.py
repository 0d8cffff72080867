# SPDX-License-Identifier: Apache-2.0
"""~/.local/tower and ssh's configuration: what is made, what is left alone, and two of us at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import HostError, StateError
from tower.base.names import HostName
from tower.base.networks import ROUTER_ADDRESS
from tower.cli import main
from tower.hosts import env, registry, secret, stanza
from tower.hosts.env import TowerEnv, Wlan
from tower.hosts.registry import ENV, HOST_KEY, USER_KEY, FreeAddress, Tower


def files_of(settings: TowerEnv) -> dict[str, bytes]:
    pair = secret.new_key_pair("x")
    return {
        ENV: env.dump(settings),
        USER_KEY: pair.private,
        HOST_KEY: pair.private,
        f"{HOST_KEY}.pub": pair.public.encode() + b"\n",
    }


def add(tower: Tower, settings: TowerEnv, name: str, *, online: bool = False) -> registry.Host:
    wlan = Wlan("Home", "0" * 64) if name == "router" else None

    def make(place: FreeAddress) -> Mapping[str, bytes]:
        mine = replace(
            settings, hostname=HostName(name), online=online, address=IPv4Address(place.address), color=place.color, wlan=wlan
        )
        return files_of(mine)

    return tower.add(HostName(name), online=online, make=make)


def ssh_sees(tower: Tower, name: str, config: Path) -> dict[str, str]:
    done = subprocess.run(["ssh", "-F", config, "-G", name], capture_output=True, text=True, check=True, timeout=30)
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}


def test_ssh_itself_reads_what_we_write(tower: Tower, settings: TowerEnv) -> None:
    host = add(tower, settings, "vault")
    for config in (tower.config, tower.ssh_config):
        found = ssh_sees(tower, "vault", config)
        assert found["hostname"] == "192.168.3.200"
        assert found["user"] == "al"
        assert found["identityfile"] == str(host.file(USER_KEY))
        assert found["userknownhostsfile"] == str(tower.known_hosts)
        assert found["hostkeyalias"] == "vault"
        assert found["stricthostkeychecking"] in ("true", "yes")
        assert found["identitiesonly"] == "yes"
    assert ssh_sees(tower, "elsewhere", tower.ssh_config)["hostname"] == "elsewhere"
    key = subprocess.run(["ssh-keygen", "-F", "vault", "-f", tower.known_hosts], capture_output=True, check=True, timeout=30)
    assert key.stdout.split()[-1] == host.file(f"{HOST_KEY}.pub").read_bytes().split()[1]


def test_a_home_with_spaces_and_percents(tmp_path: Path, settings: TowerEnv) -> None:
    home = tmp_path / "a home 100%d"
    home.mkdir()
    tower = registry.tower_of_user(home)
    host = add(tower, settings, "vault")
    assert ssh_sees(tower, "vault", tower.ssh_config)["identityfile"].strip('"').replace("%%", "%") == str(host.file(USER_KEY))


def test_only_the_user_can_read_the_folder_and_sshs_configuration(tower: Tower, settings: TowerEnv) -> None:
    tower.folder.mkdir(parents=True, mode=0o755)
    add(tower, settings, "vault")
    for path in (tower.folder, *tower.folder.rglob("*"), tower.ssh_config, tower.ssh_config.parent):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    "before", [b"", b"# mine\r\nHost x\n  User y\n", b"Include other\n\nHost *\n", b"Host x\n  Port 1", b"\xff\xfe"]
)
def test_the_users_configuration_gets_one_line_in_front(tower: Tower, settings: TowerEnv, before: bytes) -> None:
    tower.ssh_config.parent.mkdir(mode=0o700)
    tower.ssh_config.write_bytes(before)
    tower.ssh_config.chmod(0o644)
    add(tower, settings, "one")
    once = tower.ssh_config.read_bytes()
    assert once.endswith(before)
    assert once[: len(once) - len(before)] == f'Include "{tower.config}"\n'.encode()
    assert stat.S_IMODE(tower.ssh_config.stat().st_mode) == 0o644
    add(tower, settings, "two")
    tower.remove(HostName("one"))
    assert tower.ssh_config.read_bytes() == once


@given(
    st.lists(st.sampled_from([b"Include x", b"Host *", b"# y", b" include \t", b"\n", b"\r", b"\xff", b"\0", b" "])).map(b"".join)
)
def test_any_configuration_of_the_user_is_kept(tmp_path_factory: pytest.TempPathFactory, before: bytes) -> None:
    folder = tmp_path_factory.mktemp("home")
    ssh_config, config = folder / "ssh_config", folder / "config"
    ssh_config.write_bytes(before)
    stanza.include(ssh_config, config)
    once = ssh_config.read_bytes()
    assert once == f'Include "{config}"\n'.encode() + before
    stanza.include(ssh_config, config)
    assert ssh_config.read_bytes() == once


def test_an_include_inside_a_host_does_not_count(tower: Tower, settings: TowerEnv) -> None:
    tower.ssh_config.parent.mkdir(mode=0o700)
    tower.ssh_config.write_text(f'Host x\nInclude "{tower.config}"\n')
    add(tower, settings, "vault")
    assert ssh_sees(tower, "vault", tower.ssh_config)["hostname"] == "192.168.3.200"


def test_the_users_folder_keeps_its_mode(tower: Tower, settings: TowerEnv) -> None:
    tower.ssh_config.parent.mkdir()
    tower.ssh_config.parent.chmod(0o755)
    add(tower, settings, "vault")
    assert stat.S_IMODE(tower.ssh_config.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(tower.ssh_config.stat().st_mode) == 0o600


def test_a_linked_configuration_stays_a_link(tower: Tower, home: Path, settings: TowerEnv) -> None:
    real = home / "dotfiles"
    real.write_text("Host x\n")
    tower.ssh_config.parent.mkdir(mode=0o700)
    tower.ssh_config.symlink_to(real)
    add(tower, settings, "vault")
    assert tower.ssh_config.is_symlink()
    assert real.read_text() == f'Include "{tower.config}"\nHost x\n'


def test_order_of_hosts(tower: Tower, settings: TowerEnv) -> None:
    with pytest.raises(HostError, match="none yet"):
        add(tower, settings, "web", online=True)
    assert add(tower, settings, "router", online=True).env.address == ROUTER_ADDRESS
    with pytest.raises(HostError, match="a router already"):
        add(tower, settings, "router", online=True)
    assert str(add(tower, settings, "web", online=True).env.address) == "192.168.2.200"
    with pytest.raises(HostError, match="this host exists already"):
        add(tower, settings, "web")


def test_addresses_and_colors_of_removed_hosts_are_free_again(tower: Tower, settings: TowerEnv) -> None:
    hosts = [add(tower, settings, f"h{number}") for number in range(4)]
    assert [str(host.env.address) for host in hosts] == [f"192.168.3.{200 + number}" for number in range(4)]
    tower.remove(HostName("h1"))
    again = add(tower, settings, "new")
    assert (again.env.address, again.env.color) == (hosts[1].env.address, hosts[1].env.color)


def test_an_unknown_host(tower: Tower) -> None:
    assert tower.hosts() == ()
    for call in (tower.host, tower.remove):
        with pytest.raises(HostError, match="no such host"):
            call(HostName("web"))


def test_the_remains_of_a_killed_run_are_removed_and_are_no_host(tower: Tower, settings: TowerEnv) -> None:
    add(tower, settings, "one")
    left = tower.folder / "hosts" / ".two.abcdef"
    left.mkdir()
    (left / ENV).write_text("half")
    assert [host.name for host in tower.hosts()] == ["one"]
    add(tower, settings, "three")
    assert not left.exists()


def test_a_failure_leaves_nothing(tower: Tower, settings: TowerEnv) -> None:
    def make(place: FreeAddress) -> Mapping[str, bytes]:
        raise HostError("no")

    with pytest.raises(HostError):
        tower.add(HostName("web"), online=False, make=make)
    assert list((tower.folder / "hosts").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"HOSTNAME='x'\n", b"\xff"])
def test_a_damaged_host_is_named(tower: Tower, settings: TowerEnv, damage: bytes) -> None:
    add(tower, settings, "vault").file(ENV).write_bytes(damage)
    with pytest.raises(StateError, match="vault"):
        tower.hosts()
    tower.remove(HostName("vault"))
    assert tower.hosts() == ()


def test_a_damaged_router_can_be_forgotten_as_its_error_says(tower: Tower, settings: TowerEnv) -> None:
    add(tower, settings, "router", online=True).file(ENV).write_bytes(b"HOSTNAME='x'\n")
    assert main.main(["deprovision", "router", "--yes"]) == 0
    assert tower.hosts() == ()


@pytest.mark.parametrize("where", ["folder of ours", "folder with more in it", "damaged"])
def test_a_host_that_is_a_link_is_forgotten_with_its_keys(tower: Tower, settings: TowerEnv, tmp_path: Path, where: str) -> None:
    host = add(tower, settings, "vault")
    for name in registry.OWN:
        host.file(name).touch()
    (host.folder / registry.UPGRADE).mkdir()
    (host.folder / registry.UPGRADE / registry.RECEIPT).touch()
    real = host.folder.rename(tmp_path / "elsewhere")
    host.folder.symlink_to(real)
    assert tower.host(host.name) == host, "until then it is a host like any other"
    if where == "folder with more in it":
        (real / "letter.txt").write_text("mine")
    if where == "damaged":
        (real / ENV).unlink()
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    assert tower.hosts() == ()
    assert not list((tower.folder / "hosts").iterdir())
    assert [path.name for path in real.glob("*")] == (["letter.txt"] if where == "folder with more in it" else [])
    assert b"vault" not in tower.config.read_bytes() + tower.known_hosts.read_bytes()
    add(tower, settings, "vault")


@pytest.mark.parametrize("kind", ["file", "pipe", "link to nothing", "link to itself", "link to another folder"])
def test_folders_that_are_not_hosts_are_reported_and_can_be_removed(
    tower: Tower, settings: TowerEnv, tmp_path: Path, kind: str
) -> None:
    add(tower, settings, "good")
    path, other = tower.folder / "hosts" / "vault", tmp_path / "other"
    other.mkdir()
    (other / "world").write_text("not ours")
    make: dict[str, Callable[[], None]] = {
        "file": path.touch,
        "pipe": lambda: os.mkfifo(path),
        "link to nothing": lambda: path.symlink_to("nothing"),
        "link to itself": lambda: path.symlink_to(path),
        "link to another folder": lambda: path.symlink_to(other),
    }
    make[kind]()
    for call in (tower.hosts, lambda: tower.host(HostName("vault")), lambda: tower.named(["vault"])):
        with pytest.raises(StateError, match="vault") as caught:
            call()
        assert any(words in caught.value.hint for words in ("deprovision vault", "in a circle", "a part of the path"))
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    assert [host.name for host in tower.hosts()] == ["good"]
    assert (other / "world").read_text() == "not ours"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [ENV, f"{HOST_KEY}.pub"])
def test_a_pipe_in_a_hosts_folder_keeps_nobody_waiting(tower: Tower, settings: TowerEnv, name: str) -> None:
    host = add(tower, settings, "vault")
    host.file(name).unlink()
    os.mkfifo(host.file(name))
    with pytest.raises(StateError, match="is a pipe, not a regular file"):
        tower.refresh()
    assert main.main(["status", "--timeout", "0.5"]) != 0 or name != ENV
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    assert tower.hosts() == ()


def test_links_among_the_remains_of_killed_runs(tower: Tower, settings: TowerEnv, tmp_path: Path) -> None:
    """They lead elsewhere, and nobody's files are removed there."""
    add(tower, settings, "one")
    (tmp_path / "mine").mkdir()
    (tower.folder / "hosts" / ".two").symlink_to(tmp_path / "mine")
    add(tower, settings, "three")
    assert (tmp_path / "mine").is_dir()


def test_a_folder_of_another_host_is_refused(tower: Tower, settings: TowerEnv) -> None:
    host = add(tower, settings, "vault")
    host.folder.rename(host.folder.with_name("other"))
    with pytest.raises(StateError, match="is for host vault"):
        tower.hosts()


TWO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.runtime.test_sshconf import add
from tests.unit.runtime.test_env import GOOD_FILE
from tower.hosts import env, registry
for number in range(8):
    add(registry.tower_of_user(Path(sys.argv[2])), env.parse(GOOD_FILE), f"{sys.argv[3]}{number}")
"""


def test_two_at_once(tower: Tower, home: Path) -> None:
    checkout = Path(__file__).resolve().parents[3]
    argv = [sys.executable, "-c", TWO, str(checkout), str(home)]
    both = [subprocess.Popen([*argv, letter], stderr=subprocess.PIPE) for letter in "abc"]
    for one in both:
        _, said = one.communicate(timeout=50)
        assert one.returncode == 0, said.decode()
    hosts = tower.hosts()
    assert sorted(str(host.env.address) for host in hosts) == [f"192.168.3.{200 + number}" for number in range(24)]
    assert len({host.env.color for host in hosts}) == 24
    assert tower.config.read_text().count("\nHost ") == 24
    assert len(tower.known_hosts.read_text().splitlines()) == 24
