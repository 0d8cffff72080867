# SPDX-License-Identifier: Apache-2.0
"""Packets, made and read: what the tests put onto a wire, and what they find on one."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SYN, ACK, SYNACK = 0x02, 0x10, 0x12
BROKEN = 0x03
"""As flags: a packet that is no part of any connection (TCP that both begins and ends one, UDP longer than it is)."""
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}


@dataclass(frozen=True, slots=True)
class Packet:
    """What the rules look at; `mark` (16 bits) tells one packet of a test from all others.

    The mark is the number of an echo; of TCP and UDP it is the port that is not the service's.
    """

    source: str
    target: str
    protocol: int
    source_port: int = 0
    target_port: int = 0
    flags: int = SYN
    body: bytes = b""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source else 4

    def reply(self, flags: int = SYNACK) -> Packet:
        """What the other side would answer."""
        return Packet(self.target, self.source, self.protocol, self.target_port, self.source_port, flags)

    def error(self, sender: str, target: str) -> Packet:
        """The message of ICMP that this packet was too large, or that nobody takes it."""
        return Packet(sender, target, ICMP, 3, 3, body=bytes(4) + self.datagram()[:28])

    def datagram(self) -> bytes:
        """The packet from its IP header on."""
        content = self._content()
        if self.version == 4:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0, 64, self.protocol, 0)
            ends = ip_address(self.source).packed + ip_address(self.target).packed
            return header[:10] + struct.pack("!H", checksum(header + ends)) + ends + content
        ends = ip_address(self.source).packed + ip_address(self.target).packed
        return struct.pack("!IHBB", 0x60000000, len(content), self.protocol, 64) + ends + content

    def frame(self, target: bytes, source: bytes = b"\x02\x00\x00\x00\x00\x01") -> bytes:
        """The packet from its Ethernet header on."""
        return target + source + struct.pack("!H", _ETHERTYPES[self.version]) + self.datagram()

    def _content(self) -> bytes:
        pseudo = ip_address(self.source).packed + ip_address(self.target).packed
        match self.protocol:
            case 6:
                fields = (self.source_port, self.target_port, 1, 1 if self.flags & ACK else 0, 0x50, self.flags, 8192, 0, 0)
                raw, place = struct.pack("!HHIIBBHHH", *fields), 16
            case 17:
                raw, place = (
                    struct.pack("!HHHH", self.source_port, self.target_port, 999 if self.flags == BROKEN else 12, 0) + b"test",
                    6,
                )
            case 1 | 58:
                # Type and code; of an echo, the mark as its identifier.
                kind = (self.source_port, self.target_port) if self.body else (8 if self.protocol == ICMP else 128, 0)
                raw, place = struct.pack("!BBH", *kind, 0) + (self.body or struct.pack("!HH", self.source_port, 1)), 2
                pseudo = b"" if self.protocol == ICMP else pseudo
            case _:
                return struct.pack("!H", self.source_port) + bytes(6)
        if pseudo:
            pseudo += struct.pack("!IxxxB" if self.version == 6 else "!xBH", *self._pseudo_tail(len(raw)))
        return raw[:place] + struct.pack("!H", checksum(pseudo + raw)) + raw[place + 2 :]

    def _pseudo_tail(self, length: int) -> tuple[int, int]:
        return (length, self.protocol) if self.version == 6 else (self.protocol, length)


def checksum(data: bytes) -> int:
    """The checksum of the Internet's protocols (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parsed(datagram: bytes) -> Packet | None:
    """A packet from its IP header on; None if it is none that these tests send."""
    if len(datagram) < 28:
        return None
    if datagram[0] >> 4 == 4:
        start = (datagram[0] & 15) * 4
        protocol, source, target = datagram[9], datagram[12:16], datagram[16:20]
    elif datagram[0] >> 4 == 6 and len(datagram) >= 46:
        start, protocol, source, target = 40, datagram[6], datagram[8:24], datagram[24:40]
    else:
        return None
    return content(str(ip_address(source)), str(ip_address(target)), protocol, datagram[start:])


def content(source: str, target: str, protocol: int, raw: bytes) -> Packet | None:
    """A packet from its transport header on."""
    match protocol:
        case 6 if len(raw) >= 20:
            return Packet(source, target, protocol, *_ports(raw), raw[13])
        case 17 if len(raw) >= 8:
            return Packet(source, target, protocol, *_ports(raw))
        case 1 | 58 if len(raw) >= 8 and raw[0] in {8, 128, 0, 129}:
            return Packet(source, target, protocol, struct.unpack("!H", raw[4:6])[0])
        case 1 if len(raw) >= 8:
            return Packet(source, target, protocol, raw[0], raw[1], body=raw[4:])
        case _ if protocol >= 143 and len(raw) >= 2:
            return Packet(source, target, protocol, struct.unpack("!H", raw[:2])[0])
    return None


def _ports(raw: bytes) -> tuple[int, int]:
    return int.from_bytes(raw[:2]), int.from_bytes(raw[2:4])


def drain(receiver: socket.socket, size: int = 65536) -> list[tuple[bytes, tuple[object, ...]]]:
    """All that a socket has received, with where from."""
    received = []
    while True:
        try:
            received.append(receiver.recvfrom(size))
        except BlockingIOError:
            return received
