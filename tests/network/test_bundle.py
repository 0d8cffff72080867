# SPDX-License-Identifier: Apache-2.0
"""`tower install --bundle` on the ring: real ssh, firewalls, downloads through the router, and the host's own apk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.light.machine import Ran
from pipeline.light.services import start_ssh_server
from tests.network.home import FOLDER, HOME, User, child_of, make_hosts
from tests.network.machines import Machine, Tower
from tests.network.mirror import SERVER, Made, Mirror, packages, use_mirror, world

NAMES = ("router", "online1", "offline1", "offline2")
PACKAGES = {
    "editor": Made(depends=("library",), size=300_000),
    "library": Made(size=100_000),
    "big": Made(size=3_000_000),
    "slow": Made(size=1000, script="sleep 3"),  # sleeps: an installation that is slow
    "other": Made(),
}
MADE = 1_700_000_000
PROGRAM = "/usr/libexec/tower/bundle"


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, NAMES)


@pytest.fixture
def mirror(machines: Tower, user: User, tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path)
    made.publish(PACKAGES, made=MADE)
    use_mirror(machines, made, NAMES)
    user.machine.run("sh", "-c", f"rm -rf {HOME}/.cache/tower {FOLDER}/indexes.json {FOLDER}/hosts/*/world")
    with made.served(machines["internet"]):
        yield made


def argv(user: User, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
    return user.argv("install", "--bundle", "--yes", *words, env=env)


def install(user: User, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(user, *words, env=env), capture_output=True, text=True, timeout=120, check=False)


def network_of(host: Machine) -> dict[str, str]:
    """All that decides whom the host asks for what, and who may reach it."""
    files = ("etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf", "etc/apk/repositories", "etc/network/interfaces")
    found = {name: host.read(name) for name in files if host.path(name).is_file()}
    commands = ("iptables-save", "ip6tables-save", "ip addr", "ip route show table all", "netstat -ltn")
    told = {command: host.run(*command.split()).stdout for command in commands}
    # Not when they were asked, nor how many packets there were.
    return found | {command: re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", text) for command, text in told.items()}


def has(host: Machine, *names: str) -> bool:
    return all(host.path(f"opt/{name}").is_file() for name in names)


def world_of(user: User, host: Machine) -> str:
    return user.machine.read(f"{FOLDER}/hosts/{host.name}/world")


@pytest.mark.qa("I06")
def test_three_hosts_from_one_download(machines: Tower, user: User, mirror: Mirror) -> None:
    hosts = [machines[name] for name in ("online1", "offline1", "offline2")]
    before = [network_of(host) for host in hosts]
    done = install(user, "online1,offline1,offline2", "editor", "--json")
    assert done.returncode == 0, done.stderr
    assert [network_of(host) for host in hosts] == before
    for host in hosts:
        assert has(host, "editor", "library")
        assert (world(host), world_of(user, host)) == (["editor"], "editor\n")
        assert packages(host) == {"editor", "library"}
        assert not list(host.path("var/lib/tower/bundle").glob("repository*"))
    files = ("APKINDEX.tar.gz", "editor-1.0-r0.apk", "library-1.0-r0.apk")
    assert json.loads(done.stdout)["downloaded_bytes"] == mirror.size(*files)
    assert sorted(one.path.rpartition("/")[2] for one in mirror.requests) == sorted(files)
    # The server saw the router, not a host, and nobody's name but its own.
    assert {one.peer for one in mirror.requests} == {machines["router"].address("wlan0")}

    again = install(user, "online1,offline1,offline2", "editor", "--json")
    assert again.returncode == 0, again.stderr
    assert [one.status for one in mirror.requests[3:]] == [304]
    assert json.loads(again.stdout)["hosts"]["offline1"] == {"done": True, "steps": []}


def test_a_host_that_comes_later_needs_no_download(machines: Tower, user: User, mirror: Mirror) -> None:
    assert install(user, "online1", "editor").returncode == 0
    # The packages are gone from the server; they are here.
    for path in (mirror.folder / "main" / "x86_64").glob("*.apk"):
        path.unlink()
    assert install(user, "offline1", "editor").returncode == 0
    assert has(machines["offline1"], "editor", "library")


def test_a_host_that_is_down_does_not_keep_the_others_waiting(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline2"]
    host.run("ip", "link", "set", "eth0", "down")
    done = install(user, "offline2,offline1", "other", "--json")
    host.run("ip", "link", "set", "eth0", "up")
    assert done.returncode == 15, done.stderr
    found = json.loads(done.stdout)["hosts"]
    assert (found["offline1"]["done"], found["offline2"]["done"]) == (True, False)
    assert has(machines["offline1"], "other")


def test_an_offline_host_gets_a_bundle_unless_told_otherwise(machines: Tower, user: User, mirror: Mirror) -> None:
    words = ("install", "offline1", "other", "--yes", "--json")
    assert "downloaded_bytes" in user.json(*words[:-1])
    assert "downloaded_bytes" not in user.json(*words[:-1], "--tunnel")


def test_dry_run_shows_and_does_nothing(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    done = install(user, "offline1", "editor", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    steps = ["Installing editor (1.0-r0)", "Installing library (1.0-r0)"]
    assert json.loads(done.stdout)["hosts"] == {"offline1": {"done": False, "steps": steps}}
    assert not has(host, "editor")
    assert not host.path("var/lib/tower/bundle").exists()
    assert len(mirror.requests) == 1


def test_the_router_down_in_the_middle_of_a_download(machines: Tower, user: User, mirror: Mirror) -> None:
    router, host = machines["router"], machines["offline1"]
    mirror.pace = 0.1
    process = subprocess.Popen(argv(user, "offline1", "big"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = user.machine.path(f"{HOME}/.cache/tower/packages")
    wait_for(lambda: any(path.stat().st_size > 600_000 for path in part.glob("big*.part")))
    # Its ssh server and what it serves: all is closed at once, and nobody is there any more.
    router.kill(signal.SIGKILL, "^sshd")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 18, errors
    assert "run the same command again" in errors
    start_ssh_server(router)
    come = next(part.glob("big*.part")).stat().st_size
    mirror.pace = 0.0
    done = install(user, "offline1", "big", "--json")
    assert done.returncode == 0, done.stderr
    last = mirror.asked("big-1.0-r0.apk")[-1]
    assert (last.range, last.status) == (f"bytes={come}-", 206)
    assert last.sent == mirror.size("big-1.0-r0.apk") - come
    assert has(host, "big")


def test_a_server_that_breaks_off_is_asked_for_the_rest(machines: Tower, user: User, mirror: Mirror) -> None:
    mirror.cut["big-1.0-r0.apk"] = 1_000_000
    assert install(user, "offline1", "big").returncode == 0
    asked = mirror.asked("big-1.0-r0.apk")
    assert [one.status for one in asked] == [200, 206]
    assert sum(one.sent for one in asked) == mirror.size("big-1.0-r0.apk")
    assert has(machines["offline1"], "big")


def test_a_flipped_bit_of_a_package_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    mirror.flip.add("editor-1.0-r0.apk")
    done = install(user, "offline1", "editor")
    assert done.returncode == 18
    assert "was changed" in done.stderr
    assert not host.path("var/lib/tower/bundle").exists(), "nothing was sent"
    mirror.flip.clear()
    assert install(user, "offline1", "editor").returncode == 0
    assert has(host, "editor")


def test_a_flipped_bit_of_an_index_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    mirror.flip.add("APKINDEX.tar.gz")
    done = install(user, "offline1", "editor")
    assert done.returncode == 18
    assert "its index for offline1 is not signed" in done.stderr
    mirror.flip.clear()
    assert install(user, "offline1", "editor").returncode == 0


@pytest.mark.parametrize("kind", ["packages/editor-*.apk", "packages/indexes/*.tar.gz"])
def test_a_changed_file_in_the_cache_is_fetched_again(machines: Tower, user: User, mirror: Mirror, kind: str) -> None:
    """The server has no news of the index, and the package is there already: both are looked at all the same."""
    assert install(user, "offline1", "editor").returncode == 0
    (kept,) = (user.machine.root / HOME.lstrip("/") / ".cache/tower").glob(kind)
    data = bytearray(kept.read_bytes())
    data[-500] ^= 1
    kept.write_bytes(data)
    done = install(user, "offline2", "editor")
    assert done.returncode == 0, done.stderr
    assert "it is fetched again" in done.stdout + done.stderr
    assert has(machines["offline2"], "editor")
    assert kept.read_bytes() != data


def test_an_index_that_is_older_than_one_seen_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    assert install(user, "offline1", "editor", "--dry-run").returncode == 0
    mirror.publish({"editor": Made(version="0.9-r0")}, made=MADE - 86400)
    done = install(user, "offline1", "editor")
    assert done.returncode == 18
    assert "made 2023-11-13 22:13 UTC; one made 2023-11-14 22:13 UTC was seen before" in done.stderr
    mirror.publish({"editor": Made(version="1.1-r0")}, made=MADE + 86400)
    assert install(user, "offline1", "editor").returncode == 0
    assert "V:1.1-r0" in machines["offline1"].read("lib/apk/db/installed")


def test_a_key_that_the_host_does_not_trust(machines: Tower, user: User, mirror: Mirror) -> None:
    machines["offline1"].run("sh", "-c", "rm /etc/apk/keys/*")
    done = install(user, "offline1", "editor")
    assert (done.returncode, has(machines["offline1"], "editor")) == (18, False)
    assert "is not signed by a key that offline1 trusts" in done.stderr


def offered(user: User, host: Machine, mirror: Mirror) -> str:
    """A bundle that is whole and signed, as it goes over the wire, sent but not installed: the manifest with its signature."""
    code = """
import sys
from tower.install import bundle, bundle_install
from tower.hosts.registry import tower_of_user
from tower.base.view import View
def stop(*_):
    raise SystemExit(0)
bundle_install._install = stop
tower, kept = tower_of_user(), bundle.sign
def sign(manifest, host):
    signature = kept(manifest, host)
    sys.stdout.write((manifest + signature).decode())
    return signature
bundle.sign = sign
bundle_install.install_by_bundle(tower, [sys.stdin.read()], ["editor"], View(), yes=True)
"""
    return user.python(code, data=host.name)


def receive(host: Machine, text: str) -> Ran:
    """Offer a manifest with its signature, and no file."""
    return bundle(host, "receive", data=f"{len(text)}\n{text}")


def bundle(host: Machine, *words: str, data: str = "") -> Ran:
    """The host's own program, as the user's ssh calls it."""
    return host.run("doas", "-n", PROGRAM, *words, data=data, user="user", check=False)


def test_a_bundle_that_was_altered_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    text = offered(user, host, mirror)
    spool = host.path("var/lib/tower/bundle")
    # On the way: any byte of what was signed, and the signature.
    manifest, mark, signature = text.partition("-----BEGIN SSH SIGNATURE-----")
    changed = [
        text.replace("add editor", "add other"),
        text.replace("add editor\n", "add editor\nadd other\n"),
        text.replace("serial 1", "serial 2"),
        f"{manifest}{mark}{signature[:60]}{'B' if signature[60] != 'B' else 'C'}{signature[61:]}",
        manifest,
    ]
    for one in changed:
        done = receive(host, one)
        assert (done.returncode, "not signed" in done.stderr) == (65, True), (one, done.stderr)
    # On the host: a file that root's own folder has, and the manifest.
    assert receive(host, text).returncode == 0
    largest = max((spool / "files").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    largest.write_bytes(data)
    done = bundle(host, "install", data=".\ngo\nkept\n")
    assert (done.returncode, "is not that file" in done.stderr) == (65, True), done.stderr
    assert not largest.exists(), "it is sent anew"
    (spool / "manifest").write_text(manifest.replace("add editor", "add other"))
    assert bundle(host, "install", data=".\ngo\nkept\n").returncode == 65
    assert world(host) == []
    again = install(user, "offline1", "editor")
    assert again.returncode == 0, again.stderr


def test_a_bundle_for_another_host_or_one_that_was_used_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    host, other = machines["offline1"], machines["offline2"]
    text = offered(user, host, mirror)
    # The other host would let our key in, and still does not take what is not its own.
    keys = other.read("home/user/.ssh/authorized_keys")
    other.write("home/user/.ssh/authorized_keys", keys + host.read("home/user/.ssh/authorized_keys"), 0o600)
    other.run("chown", "user:user", "/home/user/.ssh/authorized_keys")
    done = receive(other, text)
    assert (done.returncode, "the bundle is for offline1" in done.stderr) == (65, True)
    other.write("home/user/.ssh/authorized_keys", keys, 0o600)
    other.run("chown", "user:user", "/home/user/.ssh/authorized_keys")
    assert "not signed" in receive(other, text).stderr
    # Used once, it does not come again: neither after it was installed nor after that was undone.
    assert bundle(host, "install", data=".\ngo\nkept\n").returncode == 0
    assert has(host, "editor")
    for _ in range(2):
        done = receive(host, text)
        assert (done.returncode, "used before" in done.stderr) == (65, True), done.stderr
        host.run("apk", "del", "--no-network", "editor", check=False)


def test_a_host_that_changed_since_is_refused(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    text = offered(user, host, mirror)
    host.write("etc/apk/world", f"{host.read('etc/apk/world')}other\n")
    assert bundle(host, "install", data=".\ngo\nkept\n").returncode == 76
    assert receive(host, text).returncode == 76
    done = install(user, "offline1", "editor")
    assert done.returncode == 0, done.stderr
    assert has(host, "editor", "other")


def test_the_program_refuses_what_it_does_not_know(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    text = offered(user, host, mirror)
    for size in ("", "-1", "x", "1;id", "99999999", "$(id)"):
        assert bundle(host, "receive", data=f"{size}\n{text}").returncode == 65, size
    assert bundle(host, "receive", data=f"{len(text) + 1}\n{text}").returncode == 75, "it ends in the middle"
    for line in ("", "steal", "receive x", "install --force"):
        assert bundle(host, *line.split()).returncode == 64, line
    assert host.run(PROGRAM, "install", user="user", check=False).returncode == 65, "root alone"
    # Our own key signs, and still only lines of a known form are taken.
    manifest = text.partition("-----BEGIN")[0]
    key = f"{FOLDER}/hosts/offline1/id_ed25519"
    strange = (
        "add ../x.apk",
        "add --allow-untrusted",
        "add a.apk",
        "run id",
        "file x",
        "add a b",
        "repository 0 @a/b",
        "add $(id)",
    )
    for line in strange:
        odd = f"{manifest}{line}\n"
        signature = user.machine.run("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "tower-bundle", data=odd).stdout
        done = receive(host, odd + signature)
        assert (done.returncode, "lines that this host does not know" in done.stderr) == (65, True), (line, done.stderr)


def test_a_full_disk(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    host.run("mkdir", "-p", "-m", "0755", "/var/lib/tower")
    host.run("mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", "/var/lib/tower")
    try:
        done = install(user, "offline1", "big")
        assert (done.returncode, "no space: " in done.stderr) == (18, True), done.stderr
        assert "on the disk of /var/lib/tower/bundle" in done.stderr
        # It fills while the bundle comes.
        host.run("mount", "-o", "remount,size=21m", "/var/lib/tower")
        fill = "while [ ! -f /var/lib/tower/bundle/manifest ]; do sleep 0.01; done; head -c 30m /dev/zero >/var/lib/tower/fill"
        filler = subprocess.Popen(host.argv("sh", "-c", fill), stderr=subprocess.DEVNULL)
        done = install(user, "offline1", "big")
        filler.wait(20)
        assert (done.returncode, "no space" in done.stderr) == (18, True), done.stderr
        assert world(host) == []
        host.run("rm", "/var/lib/tower/fill")
        done = install(user, "offline1", "big")
        assert done.returncode == 0, done.stderr
        assert has(host, "big")
    finally:
        host.run("umount", "/var/lib/tower")


def test_a_tower_that_is_killed_repeatedly_is_continued(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    before = network_of(host)
    for step in ("choosing", "downloading", "verifying", "sending", "(2/2)"):
        process = subprocess.Popen(
            argv(user, "offline1", "big", "slow"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert process.stdout is not None
        with process.stderr, process.stdout:
            while step not in (line := process.stderr.readline()):
                assert line, f"it ended before {step}"
            os.kill(child_of(process), signal.SIGKILL)
            process.wait(20)
    # The host goes on by itself; the next command waits for that, and notes it.
    again = install(user, "offline1", "big", "slow", "--json")
    assert again.returncode == 0, again.stderr
    assert "an earlier installation was finished without us: big slow" in again.stderr
    assert json.loads(again.stdout)["hosts"]["offline1"]["steps"] == []
    assert has(host, "big", "slow")
    assert (world(host), world_of(user, host)) == (["big", "slow"], "big\nslow\n")
    assert network_of(host) == before
    assert sum(one.sent for one in mirror.asked("big-1.0-r0.apk")) < 1.3 * mirror.size("big-1.0-r0.apk"), "downloaded once"
    # What killed ones left here is swept away when it is some seconds old.
    for left in user.machine.path("tmp").glob("tower-????????"):
        os.utime(left, (0, 0))
    assert install(user, "offline1", "big", "--dry-run").returncode == 0
    assert not list(user.machine.path("tmp").glob("tower-????????/mirror"))


def test_a_tower_killed_at_any_time_is_continued(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline2"]
    begin = time.monotonic()
    assert install(user, "offline1", "editor").returncode == 0
    whole = time.monotonic() - begin
    killed = 0
    for part in (0.15, 0.3, 0.45, 0.6, 0.75):
        process = subprocess.Popen(argv(user, "offline2", "editor"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(part * whole)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(IndexError, FileNotFoundError, ProcessLookupError):
                os.kill(child_of(process), signal.SIGKILL)
            killed += process.wait(20) in {-signal.SIGKILL, 128 + signal.SIGKILL}
    # The host goes on with what it has, so a late one may find nothing left to do.
    assert killed >= 2, f"only {killed} of 5 were killed, at parts of {whole:.1f} s"
    again = install(user, "offline2", "editor")
    assert again.returncode == 0, again.stderr
    assert has(host, "editor", "library")


def test_https_with_the_name_of_the_server(machines: Tower, user: User, mirror: Mirror, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-subj", f"/CN={SERVER}", "-addext", f"subjectAltName=DNS:{SERVER}")
    subprocess.run([*words, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    use_mirror(machines, mirror, ["offline1"], scheme="https")
    with mirror.served(machines["internet"], 443, (certificate, key)):
        done = install(user, "offline1", "editor")
        assert (done.returncode, "CERTIFICATE_VERIFY_FAILED" in done.stderr) == (18, True), done.stderr
        user.machine.write("root/ca.pem", certificate.read_text())
        done = install(user, "offline1", "editor", env={"SSL_CERT_FILE": "/root/ca.pem"})
    assert done.returncode == 0, done.stderr
    assert set(mirror.names) == {SERVER}
    assert has(machines["offline1"], "editor")


def wait_for(found: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.01)
