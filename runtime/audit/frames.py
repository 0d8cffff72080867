# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames: built to try a host, and parsed when it answers.

Only frames that the audit sends can be built: TCP SYNs and the like, datagrams, echo requests, neighbour solicitations.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58
SYN: Final = 0x02
RST: Final = 0x04
SYN_ACK: Final = 0x12
_NAMES: Final = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}


@dataclass(frozen=True, slots=True)
class Seen:
    """The fields of a received frame that matter here."""

    hardware: bytes
    """Its sender, by hardware address."""
    protocol: int
    """ARP, or the protocol number in the IP header; 0 if it is not valid."""
    source: Address | None = None
    target: Address | None = None
    source_port: int = 0
    """The type, for ICMP."""
    target_port: int = 0
    flags: int = 0

    def __str__(self) -> str:
        if self.protocol == ARP:
            return f"ARP: who has {self.target}?"
        name = _NAMES.get(self.protocol, f"protocol {self.protocol}")
        if self.protocol in (TCP, UDP):
            return f"{name} from {self.source} port {self.source_port} to {self.target} port {self.target_port}"
        return f"{name} type {self.source_port} from {self.source} to {self.target}"


def checksum(data: bytes) -> int:
    """Return the checksum of IP and the protocols on top of it."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(source: Address, target: Address, ports: tuple[int, int], flags: int = SYN, number: int = 1) -> bytes:
    """Build a TCP segment without data, with its IP header."""
    made = struct.pack("!HHIIBBHHH", *ports, number, 0, 5 << 4, flags, 64240, 0, 0)
    total = checksum(_pseudo(source, target, TCP, len(made)) + made)
    return packet(source, target, TCP, made[:16] + struct.pack("!H", total) + made[18:])


def udp(source: Address, target: Address, ports: tuple[int, int], data: bytes) -> bytes:
    """Build a datagram, with its IP header."""
    made = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    total = checksum(_pseudo(source, target, UDP, len(made)) + made) or 0xFFFF
    return packet(source, target, UDP, made[:6] + struct.pack("!H", total) + made[8:])


def echo(source: Address, target: Address, number: int) -> bytes:
    """Build an echo request, with its IP header."""
    six = isinstance(target, IPv6Address)
    made = struct.pack("!BBHHH", 128 if six else 8, 0, 0, number, 1)
    total = checksum((_pseudo(source, target, ICMPV6, len(made)) if six else b"") + made)
    return packet(source, target, ICMPV6 if six else ICMP, made[:2] + struct.pack("!H", total) + made[4:])


def who_has(source: IPv6Address, target: IPv6Address, hardware: bytes) -> bytes:
    """Build a neighbour solicitation of IPv6, addressed to the neighbour itself."""
    made = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + hardware
    total = checksum(_pseudo(source, target, ICMPV6, len(made)) + made)
    return packet(source, target, ICMPV6, made[:2] + struct.pack("!H", total) + made[4:], hops=255)


def packet(source: Address, target: Address, protocol: int, content: bytes, *, hops: int = 64) -> bytes:
    """Build an IP packet, of the family of its addresses."""
    if isinstance(target, IPv6Address):
        return struct.pack("!IHBB", 6 << 28, len(content), protocol, hops) + source.packed + target.packed + content
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 0, 0x4000, hops, protocol, 0) + source.packed + target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + content


def frame(source: bytes, target: bytes, content: bytes) -> bytes:
    """Build a frame with an IP packet."""
    kind = IPV6 if content[0] >> 4 == 6 else IPV4
    return target + source + struct.pack("!H", kind) + content


def read(data: bytes) -> Seen | None:
    """Parse a received frame; None if it is neither IP nor ARP."""
    if len(data) < 14:
        return None
    hardware, (kind,), rest = data[6:12], struct.unpack("!H", data[12:14]), data[14:]
    try:
        if kind == ARP:
            return _read_arp(hardware, rest)
        if kind == IPV4:
            start = (rest[0] & 15) * 4
            return _read_content(hardware, rest[9], rest[12:16], rest[16:20], rest[start:])
        if kind == IPV6:
            return _read_content(hardware, rest[6], rest[8:24], rest[24:40], rest[40:])
    except (IndexError, ValueError, struct.error):
        return Seen(hardware, 0)
    return None


def _read_arp(hardware: bytes, rest: bytes) -> Seen | None:
    (operation,) = struct.unpack("!H", rest[6:8])
    return Seen(hardware, ARP, ip_address(rest[14:18]), ip_address(rest[24:28])) if operation == 1 else None


def _read_content(hardware: bytes, protocol: int, source: bytes, target: bytes, content: bytes) -> Seen:
    ports, flags = (0, 0), 0
    if protocol in (TCP, UDP):
        ports = struct.unpack("!HH", content[:4])
        flags = content[13] if protocol == TCP else 0
    elif protocol in (ICMP, ICMPV6):
        ports = (content[0], 0)
    return Seen(hardware, protocol, ip_address(source), ip_address(target), *ports, flags)


def _pseudo(source: Address, target: Address, protocol: int, length: int) -> bytes:
    if isinstance(target, IPv6Address):
        return source.packed + target.packed + struct.pack("!II", length, protocol)
    return source.packed + target.packed + struct.pack("!HH", protocol, length)
