# SPDX-License-Identifier: Apache-2.0
"""The parts of `tower audit` that need no machines: what words and frames mean, and that what is not known is not held."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.audit import frames, local, probe, rules, verdict
from tower.audit.attack import Attacker, Victim, faults_of
from tower.audit.checks import AuditReport, Check, Verdict, judged, not_tried, worst
from tower.audit.frames import SYN_ACK, TCP, Seen
from tower.audit.listeners import Listener, listeners
from tower.audit.matrix import show
from tower.audit.packets import Wire
from tower.audit.probe import Answered, Result, Try, result_of
from tower.base.errors import GarbageError, ValueRefusedError
from tower.base.proc import Done
from tower.cli.commands import audit as command
from tower.hosts.registry import Tower

HERE, THERE = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OWN, HOST, STRANGER = IPv4Address("192.168.2.100"), IPv4Address("192.168.2.200"), IPv4Address("192.168.2.254")

TO_IT = "traceroute to 10.0.0.1 (10.0.0.1), 1 hops max, 46 byte packets"
NOBODY = ";; connection timed out; no servers could be reached"
# Of Debian's busybox (glibc) and Alpine's (musl).
SAID = [
    ("tcp", 1, "nc: timed out", Result.SILENT),
    ("tcp", 1, "nc: 10.0.0.1 (10.0.0.1:80): Operation timed out", Result.SILENT),
    ("tcp", 1, "nc: can't connect to remote host (10.0.0.1): Connection refused", Result.REACHED),
    ("tcp", 1, "nc: can't connect to remote host (10.0.0.1): No route to host", Result.REACHED),
    ("tcp", 1, "nc: 10.0.0.1 (10.0.0.1:80): Host is unreachable", Result.REACHED),
    ("tcp", 1, "nc: can't connect to remote host (10.0.0.1): Network is unreachable", Result.CLOSED),
    ("tcp", 1, "nc: 10.0.0.1 (10.0.0.1:80): Network unreachable", Result.CLOSED),
    ("tcp", 0, "SSH-2.0-OpenSSH_9.2", Result.REACHED),
    ("tcp", 143, "", Result.REACHED),
    ("tcp", 1, "nc: bad address 'x'", Result.FAILED),
    ("tcp", 127, "nc: applet not found", Result.FAILED),
    ("udp", 1, f"{TO_IT}  1traceroute: sendto: Operation not permitted", Result.CLOSED),
    ("udp", 0, f"{TO_IT}  1  *", Result.LEFT),
    ("udp", 0, f"{TO_IT}  1  10.0.0.1  0.007 ms", Result.REACHED),
    ("icmp", 1, "PING 10.0.0.1 (10.0.0.1): 56 data bytes ping: sendto: Operation not permitted", Result.CLOSED),
    ("icmp", 1, "1 packets transmitted, 0 packets received, 100% packet loss", Result.LEFT),
    ("icmp", 0, "64 bytes from 10.0.0.1: seq=0 ttl=64 time=0.054 ms", Result.REACHED),
    ("icmp", 1, "ping: bad address 'x'", Result.FAILED),
    ("name", 1, f"nslookup: write to '10.0.0.1': Operation not permitted {NOBODY}", Result.CLOSED),
    ("name", 1, NOBODY, Result.LEFT),
    ("name", 1, "Server: 10.0.0.1 ** server can't find a.example.com: NXDOMAIN", Result.REACHED),
    ("name", 1, "nslookup: write to '10.0.0.1': Connection refused", Result.REACHED),
    ("resolve", 1, "nslookup: write to '127.0.0.1': Connection refused", Result.CLOSED),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "status", "said", "result"), SAID)
def test_a_hosts_report_of_an_attempt_gives_the_right_result(protocol: str, status: int, said: str, result: Result) -> None:
    assert result_of(protocol, status, said) is result


@given(st.sampled_from(["tcp", "udp", "icmp", "name", "resolve"]), st.integers(-1, 255), st.text(max_size=60))
def test_unknown_errors_do_not_count_as_closed(protocol: str, status: int, said: str) -> None:
    if not any(words in said for words in ("unreachable", "not permitted", "denied", "assign", "available", "family", "refused")):
        assert result_of(protocol, status, said) is not Result.CLOSED


def one(result: Result, protocol: str = "tcp") -> Answered:
    return Answered(Try("web", protocol, "192.168.2.201", 22), result, "")


WORKS, BROKEN_TOOLS = {"tcp4": True}, {"tcp4": False}


@pytest.mark.parametrize(
    ("answers", "controls", "alive", "outcome"),
    [
        ([one(Result.CLOSED), one(Result.SILENT)], WORKS, True, Verdict.HELD),
        ([one(Result.CLOSED), one(Result.REACHED)], WORKS, True, Verdict.BROKEN),
        ([one(Result.LEFT)], BROKEN_TOOLS, False, Verdict.BROKEN),
        ([one(Result.CLOSED), one(Result.FAILED)], WORKS, True, Verdict.NOT_TRIED),
        ([one(Result.SILENT)], BROKEN_TOOLS, True, Verdict.NOT_TRIED),
        ([one(Result.SILENT)], {}, True, Verdict.NOT_TRIED),
        ([one(Result.SILENT)], WORKS, False, Verdict.NOT_TRIED),
        ([one(Result.CLOSED)], {}, False, Verdict.HELD),
        ([], WORKS, True, Verdict.NOT_TRIED),
    ],
)
def test_a_silence_counts_where_something_was_answered(
    answers: list[Answered], controls: dict[str, bool], alive: bool, outcome: Verdict
) -> None:
    assert verdict.way("vault", "web", answers, controls, alive=alive).outcome is outcome


def test_the_worst_is_what_counts() -> None:
    assert worst([]) is Verdict.NOT_TRIED
    assert worst([Verdict.HELD, Verdict.NOT_TRIED]) is Verdict.NOT_TRIED
    assert worst([Verdict.NOT_TRIED, Verdict.BROKEN, Verdict.HELD]) is Verdict.BROKEN


def reads(content: bytes) -> Seen:
    found = frames.read(frames.frame(THERE, HERE, content))
    assert found is not None
    return found


def test_frames_are_read_as_they_are_made() -> None:
    six, other = IPv6Address("fe80::1"), IPv6Address("fe80::2")
    assert reads(frames.tcp(HOST, OWN, (22, 20001), SYN_ACK)) == Seen(THERE, TCP, HOST, OWN, 22, 20001, SYN_ACK)
    assert reads(frames.udp(six, other, (53, 9), b"abc")) == Seen(THERE, frames.UDP, six, other, 53, 9)
    assert reads(frames.echo(HOST, OWN, 7)).source_port == 8
    assert reads(frames.echo(six, other, 7)).source_port == 128
    assert reads(frames.who_has(six, other, HERE)).source_port == 135
    arp = struct.pack("!HHBBH", 1, frames.IPV4, 6, 4, 1) + THERE + HOST.packed + bytes(6) + OWN.packed
    assert frames.read(HERE + THERE + struct.pack("!H", frames.ARP) + arp) == Seen(THERE, frames.ARP, HOST, OWN)


@pytest.mark.parametrize(
    "content", [frames.tcp(HOST, OWN, (1, 2)), frames.udp(HOST, OWN, (1, 2), b"odd"), frames.echo(HOST, OWN, 1)]
)
def test_checksums_are_right(content: bytes) -> None:
    """Over what it covers, a checksum adds up to nothing."""
    assert frames.checksum(content[:20]) == 0
    pseudo = content[12:20] + struct.pack("!HH", content[9], len(content) - 20) if content[9] != frames.ICMP else b""
    assert frames.checksum(pseudo + content[20:]) == 0


@given(st.binary(max_size=120))
def test_any_frame_can_be_read(data: bytes) -> None:
    frames.read(data)
    for kind in (frames.IPV4, frames.IPV6, frames.ARP):
        assert frames.read(HERE + THERE + struct.pack("!H", kind) + data) is None or data is not None


def attacker() -> Attacker:
    with socket.socket() as unused:
        return Attacker(Wire("eth0", HERE, unused), OWN, STRANGER, 20001)


def test_unexpected_frames_of_a_host_are_faults_and_usual_ones_are_not() -> None:
    near = {IPv4Address("192.168.2.201"): "web"}
    fine = [
        Seen(THERE, TCP, HOST, OWN, 22, 20001, SYN_ACK),
        Seen(THERE, TCP, HOST, OWN, 22, 40000, 0x18),
        Seen(THERE, frames.ARP, HOST, OWN),
        Seen(THERE, frames.ARP, IPv4Address(0), IPv4Address("192.168.2.201")),
    ]
    assert faults_of(fine, attacker(), near) == ([], {})
    for bad in (
        Seen(THERE, TCP, HOST, STRANGER, 22, 20001, SYN_ACK),
        Seen(THERE, TCP, HOST, OWN, 80, 20001, frames.RST),
        Seen(THERE, TCP, HOST, OWN, 22, 20001, frames.RST),
        Seen(THERE, frames.UDP, HOST, OWN, 53, 20001),
        Seen(THERE, frames.ICMP, HOST, OWN, 3),
        Seen(THERE, frames.ARP, HOST, STRANGER),
        Seen(THERE, 0),
    ):
        assert faults_of([bad], attacker(), near)[0], bad
    asked = faults_of([Seen(THERE, frames.ARP, HOST, IPv4Address("192.168.2.201"))], attacker(), near)
    assert asked[0] == []
    assert asked[1].keys() == {"web"}


def sent(victim: Victim) -> list[Seen]:
    """The frames that a host is tried with."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    found: list[Seen] = []

    def receive() -> None:
        while data := far.recv(2048):
            frame = frames.read(data)
            assert frame is not None
            found.append(frame)

    with near, far:
        reader = threading.Thread(target=receive)
        reader.start()
        Attacker(Wire("eth0", HERE, near), OWN, STRANGER, 20001).send(victim)
        far.shutdown(socket.SHUT_RD)
        near.close()
        reader.join(20)
    return found


def test_a_host_is_tried_on_every_port_by_every_way() -> None:
    local = IPv6Address("fe80::2")
    victim = Victim("web", False, THERE, HOST, (local,), {22, 80}, range(1, 3000))
    found = sent(victim)
    for protocol in (TCP, frames.UDP):
        ports = {(one.source, one.target, one.target_port) for one in found if one.protocol == protocol}
        assert {port for source, target, port in ports if (source, target) == (OWN, HOST)} == set(range(1, 3000))
        assert {port for source, target, port in ports if (source, target) == (STRANGER, HOST)} == {22, 80}
        assert {port for _, target, port in ports if target == local} == {22, 80}
    assert {one.target for one in found if one.protocol == frames.ICMPV6} == {local, IPv6Address("ff02::1")}


def test_services_for_hosts_on_the_router_are_not_tried_as_a_host() -> None:
    router = Victim("router", True, THERE, IPv4Address("192.168.2.1"), (), {22, 53, 123, 9050})
    tried = {(one.source, one.protocol, one.target_port) for one in sent(router) if one.protocol in (TCP, frames.UDP)}
    ports = (22, 53, 123, 9050)
    everything = {(source, kind, port) for source in (OWN, STRANGER) for kind in (TCP, frames.UDP) for port in ports}
    assert everything - tried == {
        (STRANGER, kind, port) for kind, ports in ((TCP, (53, 9050)), (frames.UDP, (53, 123))) for port in ports
    }


def test_listeners_are_those_that_a_network_reaches() -> None:
    lines = [
        "tcp   sl  local_address rem_address   st tx_queue",
        "tcp   0: 0100007F:1F90 00000000:0000 0A 0:0",
        "tcp   1: 00000000:0016 00000000:0000 0A 0:0",
        "tcp   2: 6402A8C0:A000 C802A8C0:0016 01 0:0",
        "tcp6  0: 00000000000000000000000001000000:0277 0:0 0A 0:0",
        "tcp6  1: 00000000000000000000000000000000:0016 0:0 0A 0:0",
        "tcp6  2: 0000000000000000FFFF00000100007F:0050 0:0 0A 0:0",
        "udp   0: 00000000:0044 00000000:0000 07 0:0",
        "udp6  0: 00000000000000000000000001000000:0143 0:0 07 0:0",
    ]
    assert listeners(lines) == (Listener("tcp", 22, "0.0.0.0"), Listener("tcp", 22, "::"), Listener("udp", 68, "0.0.0.0"))
    with pytest.raises(ValueError, match=r"invalid|hexadecimal|unpack"):
        listeners(["tcp 0: nonsense:1 x 0A"])


WANTED = (
    ":INPUT DROP [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -i eth0 -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\n"
)


@dataclass
class Session:
    """A host that says what it likes."""

    said: str
    host: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="web"))

    def root(self, argv: object, **how: object) -> Done:
        return Done(0, self.said.encode(), b"")


def section(name: str, text: str, status: int = 0) -> str:
    return f"\n-- {name} --\n{text}\n-- end {status} --\n"


FACTS = {
    "hardware": "eth0 02:00:00:00:00:02\n",
    "addresses6": "",
    "routes": "Iface\tDestination\n",
    "switches": "ipv4/ip_forward 0\n",
    "sockets": "tcp   0: 00000000:0016 00000000:0000 0A\n",
    "name_servers": "nameserver 192.168.2.1\n",
    "sshd": "port 22\n",
}


def facts_of(**changes: str) -> probe.Facts:
    text = "".join(section(name, body) for name, body in (FACTS | changes).items())
    return probe.ask(Session(text + section("rules4", "x", 1)))  # type: ignore[arg-type]


def test_facts_of_a_host() -> None:
    found = facts_of()
    assert (found.hardware, found.routes, found.rules) == ({"eth0": THERE}, (), None)
    assert (found.switches, found.name_servers) == ({"ipv4/ip_forward": "0"}, ("192.168.2.1",))
    assert (found.sshd, [one.port for one in found.listeners]) == ({"port": ("22",)}, [22])


def test_nothing_that_a_host_says_reaches_the_terminal_as_it_is() -> None:
    assert facts_of(sshd="port \x1b[2J\x9b\n").sshd == {"port": ("?[2J?",)}


@pytest.mark.parametrize("row", ["tcp 0: 0000000:0016 0:0 0A", "tcp 0: :0016 0:0 0A", "tcp 0: zz:0 0:0 0A", "x 0: 0:0 0:0 0A"])
def test_sockets_that_make_no_sense(row: str) -> None:
    with pytest.raises(GarbageError):
        facts_of(sockets=row)


def test_numbers_without_end_are_no_answer() -> None:
    (found,) = probe.attempt(Session("9" * 5000 + " 0 x\n0 " + "9" * 5000), [Try("db", "tcp", "192.168.2.201", 22)])  # type: ignore[arg-type]
    assert found.result is Result.FAILED


def test_an_answer_made_to_be_slow_is_read_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(GarbageError):
        probe.ask(Session("-- a --\n" * (1 << 17)))  # type: ignore[arg-type]
    assert time.monotonic() - start < 5


def test_rules_are_compared_chain_by_chain() -> None:
    lines = WANTED.replace("[0:0]", "[9:9]").splitlines()
    other_order = "# x\n" + "".join(f"{line}\n" for line in (*reversed(lines[:2]), lines[4], *lines[2:4], "COMMIT"))
    assert rules.differences(WANTED, other_order, "IPv4") == []
    for found, said in (
        (WANTED.replace(":INPUT DROP", ":INPUT ACCEPT"), "missing: INPUT DROP"),
        (WANTED + "-A INPUT -j ACCEPT\n", "unexpected: -A INPUT -j ACCEPT"),
        (WANTED.replace("-A OUTPUT -o lo -j ACCEPT\n", ""), "missing: -A OUTPUT"),
        (WANTED + "-A INPUT -i lo -j ACCEPT\n", "another order"),
        ("", "missing"),
    ):
        assert said in "; ".join(rules.differences(WANTED, found, "IPv4"))


def test_files_that_others_can_read_or_change_are_named(tower: Tower, tmp_path: Path) -> None:
    folder = tower.folder / "hosts" / "web"
    folder.mkdir(parents=True, mode=0o700)
    for path in (tower.folder, tower.folder / "hosts"):
        path.chmod(0o700)
    key = folder / "id_ed25519"
    key.write_text("key")
    key.chmod(0o600)
    assert local.files(tower).outcome is Verdict.HELD
    for mode in (0o640, 0o604, 0o620):
        key.chmod(mode)
        assert str(key) in local.files(tower).detail
    key.chmod(0o600)
    folder.chmod(0o711)
    assert local.files(tower).outcome is Verdict.BROKEN
    folder.chmod(0o700)
    (folder / "link").symlink_to(key)
    assert "is a link" in local.files(tower).detail
    (folder / "link").unlink()
    tower.folder.parent.chmod(0o777)
    assert "others can change it" in local.files(tower).detail


def test_no_folder_is_not_a_good_one(tower: Tower) -> None:
    assert local.files(tower).outcome is Verdict.NOT_TRIED


def test_the_matrix_shows_all_that_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    checks = (
        judged("way", "thinclient", [], target="web", well="fine"),
        judged("way", "web", ["tcp [x] port 22 was answered"], target="thinclient"),
        not_tried("way", "web", "nobody [there]", target="internet"),
        Check("firewall", "web", "", Verdict.HELD),
    )
    show(AuditReport(("thinclient", "web", "internet"), checks))
    out = capsys.readouterr().out
    assert "broken web -> thinclient: way: tcp [x] port 22 was answered" in out
    assert "not tried web -> internet: way: nobody [there]" in out
    assert "2 held, 1 broken, 1 not tried" in out
    assert [line.split()[:5] for line in out.splitlines() if line.strip().startswith("2 web")] == [["2", "web", "NO", "-", "?"]]


@pytest.mark.parametrize("text", ["", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:x", "name:443", "1.2.3:1"])
def test_invalid_servers(text: str) -> None:
    with pytest.raises(ValueRefusedError):
        command._server(text)
