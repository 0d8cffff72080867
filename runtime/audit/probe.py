# SPDX-License-Identifier: Apache-2.0
"""Ask each host: for facts about itself, and to try to reach others, by `probe.sh`, which runs there as root.

The answers are a host's word, and parsed strictly: an invalid answer counts as "not tried", never as "held".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from ipaddress import IPv6Address
from typing import Final

from tower.audit.listeners import Listener, listeners
from tower.base.errors import GarbageError
from tower.ssh.sessions import Session

TRY_SECONDS: Final = 9.0
"""Seconds that one batch of tries may take on a host; a batch has some hundred."""
_HEAP: Final = 120
_MOST: Final = 16 << 20
"""The most bytes of a host's answer; each of its sockets takes 160, each rule of its firewall 100."""
_BEGIN: Final = re.compile(r"-- ([a-z0-9_]{1,20}) --")
_END: Final = re.compile(r"-- end ([0-9]{1,3}) --")
_LINE: Final = re.compile(r"([0-9]{1,6}) ([0-9]{1,3}) ?([ -~]*)")
_INTERFACE: Final = re.compile(r"[a-z0-9.]{1,15}")
# The error messages of glibc and musl.
_CLOSED: Final = (
    "Operation not permitted",
    "Permission denied",
    "Network is unreachable",
    "Network unreachable",
    "Cannot assign requested address",
    "Address not available",
    "Address family not supported",
)
_REFUSED: Final = ("Connection refused", "Connection reset", "No route to host", "Host is unreachable")


class Result(StrEnum):
    """The result of a try."""

    CLOSED = "closed"
    """The host itself did not send it: its firewall or its routes prevented that."""
    SILENT = "silent"
    """No answer came; whether it left the host is not known."""
    LEFT = "left"
    """It left the host, but no answer came."""
    REACHED = "reached"
    """An answer came, or a refusal by another machine."""
    FAILED = "failed"
    """It could not be tried."""


@dataclass(frozen=True, slots=True)
class Try:
    """A try of a host: to reach a machine at one of its addresses."""

    target: str
    protocol: str
    """tcp, udp, icmp; name: a query to the name server at `address`; resolve: one through the host's own resolver."""
    address: str
    port: int = 0
    name: str = ""

    def __str__(self) -> str:
        if self.protocol == "resolve":
            return "a name, as programs ask for it"
        if self.protocol == "name":
            return f"a name at {self.address}"
        return f"{self.protocol} {self.address}" + (f" port {self.port}" if self.port else "")

    def line(self, number: int) -> str:
        """Return the probe's call for it."""
        last = self.name if self.protocol in ("name", "resolve") else str(self.port)
        return shlex.join(["try", str(number), self.protocol, self.address or "-", last])


@dataclass(frozen=True, slots=True)
class Answered:
    """A try and its result."""

    tried: Try
    result: Result
    said: str

    def __str__(self) -> str:
        words = {Result.REACHED: "was answered", Result.LEFT: "left the host (nothing came back)"}
        return f"{self.tried} {words.get(self.result, self.result.value)}"


@dataclass(frozen=True, slots=True)
class Facts:
    """A host's facts about itself; a section that failed there is missing."""

    hardware: Mapping[str, bytes]
    addresses: tuple[tuple[str, IPv6Address], ...]
    """Its IPv6 addresses, each with its interface; without loopback."""
    routes: tuple[tuple[str, str], ...]
    """Its default IPv4 routes: interface and gateway."""
    switches: Mapping[str, str]
    listeners: tuple[Listener, ...]
    name_servers: tuple[str, ...]
    sshd: Mapping[str, tuple[str, ...]] | None
    rules: tuple[str, str] | None
    """The output of iptables-save and ip6tables-save."""
    controls: Mapping[str, bool]
    """Whether tries of a protocol work at all: by tries of the host's own loopback."""


CONTROLS: Final = (
    Try("", "tcp", "127.0.0.1", 22),
    Try("", "udp", "127.0.0.1", 33434),
    Try("", "icmp", "127.0.0.1"),
    Try("", "tcp", "::1", 22),
    Try("", "udp", "::1", 33434),
    Try("", "icmp", "::1"),
)


def family_of(one: Try) -> str:
    """Return the control that must have worked for the try to mean anything."""
    protocol = "udp" if one.protocol in ("name", "resolve") else one.protocol
    return protocol + ("6" if ":" in one.address else "4")


def ask(session: Session) -> Facts:
    """Return the host's facts. Raises an AnswerError if it does not answer, or not validly."""
    calls = ["facts", *(one.line(number) for number, one in enumerate(CONTROLS))]
    text = _run(session, calls, timeout=60)
    try:
        return _facts(_sections(text), text)
    except (ValueError, KeyError, IndexError) as error:
        raise GarbageError(f"{session.host.name}: its facts about itself are not valid: {error!r}") from None


def attempt(session: Session, tries: Sequence[Try]) -> tuple[Answered, ...]:
    """Let the host make tries; return a result for each. Raises an AnswerError if the host refuses."""
    calls = [one.line(number) for number, one in enumerate(tries)]
    text = _run(session, calls, timeout=30 + TRY_SECONDS * (1 + len(tries) // _HEAP))
    return _answers(tries, text)


def _run(session: Session, calls: Sequence[str], *, timeout: float) -> str:
    script = resources.files(__package__).joinpath("probe.sh").read_bytes()
    text = script + "".join(f"{call}\n" for call in (*calls, "wait")).encode()
    said = session.root(("busybox", "sh", "-s"), stdin=text, timeout=timeout, most=_MOST).stdout.decode(errors="replace")
    # Parts of the output are shown.
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in said)


def _sections(text: str) -> dict[str, str]:
    """Split the output of successful commands by name; line by line, since a host could write lines that slow a pattern down."""
    found: dict[str, str] = {}
    name, lines = "", [""]
    for line in text.split("\n"):
        if (begin := _BEGIN.fullmatch(line)) is not None:
            name, lines = begin[1], []
        elif (end := _END.fullmatch(line)) is not None:
            if name and end[1] == "0":
                found[name] = "\n".join(lines)
            name = ""
        else:
            lines.append(line)
    return found


def _answers(tries: Sequence[Try], text: str) -> tuple[Answered, ...]:
    found: dict[int, tuple[int, str]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match is not None:
            found[int(match[1])] = (int(match[2]), match[3])
    made = []
    for number, one in enumerate(tries):
        status, said = found.get(number, (-1, "the host did not report it"))
        made.append(Answered(one, result_of(one.protocol, status, said), said))
    return tuple(made)


def result_of(protocol: str, status: int, said: str) -> Result:
    """Return the result for a try's exit status and output; unknown output is a failure, not a prevented try."""
    if status < 0 or status in (126, 127) or "applet not found" in said:
        return Result.FAILED
    if any(words in said for words in _CLOSED) and "bytes from" not in said:
        return Result.CLOSED
    if any(words in said for words in _REFUSED):
        # A host without a name server queries itself.
        by_itself = protocol == "resolve" and any(mark in said for mark in ("'127.", "'::1'", "'localhost"))
        return Result.CLOSED if by_itself else Result.REACHED
    ended = status in (124, 143, 142)  # ended by its own time limit
    if protocol == "tcp":
        if status == 1 and "timed out" in said:
            return Result.SILENT
        return Result.REACHED if status == 0 or ended else Result.FAILED
    if protocol == "icmp":
        if " 0 packets received" in said or ended:
            return Result.LEFT
        return Result.REACHED if status == 0 else Result.FAILED
    if protocol == "udp":
        if (status == 0 and said.rstrip().endswith("*")) or ended:
            return Result.LEFT
        return Result.REACHED if status == 0 else Result.FAILED
    if "timed out" in said or "no servers could be reached" in said or ended:
        return Result.LEFT
    return Result.REACHED if status == 0 or "can't find" in said or "Server" in said else Result.FAILED


def _facts(sections: Mapping[str, str], text: str) -> Facts:
    hardware = {}
    for line in sections["hardware"].splitlines():
        interface, address = line.split()
        if not _INTERFACE.fullmatch(interface):
            raise ValueError(interface)
        hardware[interface] = bytes.fromhex(address.replace(":", ""))
    addresses = []
    for line in sections["addresses6"].splitlines():
        words = line.split()
        found = IPv6Address(bytes.fromhex(words[0]))
        if not _INTERFACE.fullmatch(words[5]):
            raise ValueError(words[5])
        if not found.is_loopback:
            addresses.append((words[5], found))
    controls = {family_of(answer.tried): answer.result is Result.REACHED for answer in _answers(CONTROLS, text)}
    return Facts(
        hardware,
        tuple(addresses),
        _routes(sections["routes"]),
        dict(line.split(" ", 1) for line in sections["switches"].splitlines()),
        listeners(sections["sockets"].splitlines()),
        tuple(line.split()[1] for line in sections["name_servers"].splitlines() if line.startswith("nameserver ")),
        _settings(sections["sshd"]) if "sshd" in sections else None,
        (sections["rules4"], sections["rules6"]) if {"rules4", "rules6"} <= sections.keys() else None,
        controls,
    )


def _routes(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for line in text.splitlines()[1:]:
        interface, target, gateway, _, _, _, _, mask = line.split()[:8]
        if (target, mask) == ("00000000", "00000000"):
            found.append((interface, ".".join(str(octet) for octet in reversed(bytes.fromhex(gateway)))))
    return tuple(found)


def _settings(text: str) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return {name: tuple(values) for name, values in found.items()}
