# SPDX-License-Identifier: Apache-2.0
"""The filter before the sound server: what a host says in the server's protocol, and what of it arrives."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower.display.relay import OddError
from tower.windows.loudness import Loudness
from tower.windows.pulse import COOKIE_BYTES, SoundFilter, number, packet, properties, values_of

COOKIE, OWN = bytes(range(256)), bytes(reversed(range(256)))
AUTH = number(8) + number(0) + number(0xC000_0023) + b"x" + COOKIE_BYTES.to_bytes(4) + COOKIE
STREAM = number(7) + number(21)
"""Of the server's answer: the number of the stream, and that of the mixer's input."""


def commands(data: bytes) -> list[bytes]:
    """The contents of packets."""
    found = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        found.append(data[20 : 20 + length])
        data = data[20 + length :]
    return found


def greeted() -> SoundFilter:
    made = SoundFilter("player (web)", COOKIE, OWN)
    made.from_client.feed(packet(AUTH))
    made.from_client.out.clear()
    return made


def playing() -> SoundFilter:
    """A filter behind which a stream was made."""
    made = greeted()
    made.from_client.feed(packet(number(3) + number(5) + b"a\x03\x01\0\0\xac\x44" + properties({})))
    made.from_server.feed(packet(number(2) + number(5) + STREAM))
    made.from_client.out.clear()
    made.from_server.out.clear()
    return made


def test_the_handshake_has_our_cookie_and_shares_no_memory() -> None:
    made = SoundFilter("player (web)", COOKIE, OWN)
    made.from_client.feed(packet(AUTH))
    (content,) = commands(bytes(made.from_client.out))
    _, _, version, cookie = values_of(content)
    assert version.number == 0x23
    assert cookie.data == OWN


@pytest.mark.parametrize(
    "data",
    [
        packet(number(20) + number(0)),
        packet(AUTH[:-1] + b"\0"),
        packet(AUTH.replace(b"x\0\0\1\0", b"x\0\0\0\0")[:25]),
        packet(number(8) + number(0)),
        packet(b""),
        packet(number(8)),
        struct.pack(">IIIII", 4, 0xFFFFFFFF, 0, 0, 0x8000_0000) + b"abcd",
        struct.pack(">IIIII", 0xFFFF_FFFF, 0xFFFFFFFF, 0, 0, 0),
        struct.pack(">IIIII", 0xFFFF_FFFF, 0, 0, 0, 0),
    ],
)
def test_a_client_without_a_valid_greeting_is_refused(data: bytes) -> None:
    made = SoundFilter("x", COOKIE, OWN)
    with pytest.raises(OddError):
        made.from_client.feed(data)
    assert not made.from_client.out


@pytest.mark.parametrize(
    "content", [b"L\0\0", b"t no end", b"x\xff\xff\xff\xff", b"?", b"P", b"Pt", b"PtaL\0\0\0\0", b"fB\0L", b"v\xff", b"m"]
)
def test_values_that_are_cut_off_or_odd(content: bytes) -> None:
    made = greeted()
    with pytest.raises(OddError):
        made.from_client.feed(packet(number(20) + number(1) + content))


def test_a_command_of_another_kind_is_answered_here() -> None:
    for command in range(120):
        made = playing()
        made.from_client.feed(packet(number(command) + number(9) + number(99)))
        if command in (3, 9, 10, 13, 20, 21, 22, 35):
            continue
        assert not made.from_client.out, command
        (answer,) = commands(bytes(made.from_server.out))
        assert [one.number for one in values_of(answer)] == [0, 9, 1]


def test_own_streams_are_moved_by_their_own_numbers() -> None:
    for command, which, goes in ((41, 7, True), (41, 21, False), (37, 21, True), (37, 7, False), (4, 7, True), (4, 21, False)):
        made = playing()
        made.from_client.feed(packet(number(command) + number(9) + number(which)))
        assert bool(made.from_client.out) == goes, (command, which)


def test_samples_go_to_streams_that_there_are() -> None:
    made = playing()
    data = struct.pack(">IIIII", 8, 7, 0, 0, 0) + b"12345678"
    made.from_client.feed(data)
    assert bytes(made.from_client.out) == data
    made.from_client.out.clear()
    made.from_server.feed(packet(number(64) + number(0xFFFFFFFF) + number(7)))
    made.from_client.feed(data)
    assert not made.from_client.out


def test_a_stream_has_the_properties_that_we_gave() -> None:
    made = greeted()
    asked = {b"media.name": b"a\x1b[2J" + b"b" * 500, b"target.object": b"mic", b"application.name": b"Your bank"}
    form = b"f" + b"B\x01" + properties({b"format.rate": b"44100"})
    made.from_client.feed(packet(number(3) + number(5) + b"a\x03\x01\0\0\xac\x44" + properties(asked) + b"1" + form))
    (content,) = commands(bytes(made.from_client.out))
    kinds = [one.kind for one in values_of(content)]
    assert kinds == ["L", "L", "a", "P", "1", "f"]
    assert b"target" not in content
    assert b"bank" not in content
    assert b"\x1b" not in content
    assert b"a?[2J" + b"b" * 95 + b"\0" in content
    assert b"player (web)\0" in content
    assert b"format.rate" in content


def test_events_are_about_outputs_alone() -> None:
    made = greeted()
    made.from_client.feed(packet(number(35) + number(5) + number(0xFFFF)))
    (content,) = commands(bytes(made.from_client.out))
    assert [one.number for one in values_of(content)] == [35, 5, 0x81]


def test_there_is_an_end_of_streams() -> None:
    made = greeted()
    for tag in range(200):
        made.from_client.feed(packet(number(3) + number(tag) + properties({})))
    assert len(commands(bytes(made.from_client.out))) == 64


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(
    st.binary(max_size=60),
    st.builds(lambda command, rest: packet(number(command) + number(1) + rest), st.integers(0, 130), st.binary(max_size=80)),
    st.builds(
        lambda length, channel, flags: struct.pack(">IIIII", length, channel, 0, 0, flags),
        st.integers(0, 2**32 - 1), st.sampled_from((0, 7, 0xFFFFFFFF)), st.integers(0, 2**32 - 1),
    ),
), max_size=8))  # fmt: skip
def test_nothing_that_a_host_says_is_more_than_refused(pieces: list[bytes]) -> None:
    made = playing()
    try:
        for piece in pieces:
            made.from_client.feed(piece)
    except OddError:
        pass
    for content in commands_of(bytes(made.from_client.out)):
        assert content[:5] in {
            number(one) for one in (3, 4, 9, 10, 12, 13, 14, 20, 21, 22, 29, 35, 37, 41, 42, 43, 46, 60, 69, 72, 74)
        }


def commands_of(data: bytes) -> list[bytes]:
    """The contents of commands, without samples."""
    found = []
    while len(data) >= 20:
        length, channel = struct.unpack(">II", data[:8])
        if channel == 0xFFFFFFFF:
            found.append(data[20 : 20 + length])
        data = data[20 + length :]
    return found


VOLUME, MUTE, DESCRIBE = 37, 69, 29
# A request for a stream of two channels, as libpulse 16 sends it; its volume and its mute do not count.
REQUEST = (
    number(3) + number(5) + b"a\x03\x02\0\0\xac\x44" + b"m\x02\x01\x02" + number(0xFFFFFFFF) + b"N" + number(0) + b"0"
    + number(0) * 4 + b"v\x02" + (0x10000).to_bytes(4) * 2 + b"000000" + b"10" + properties({}) + b"00000000"
)  # fmt: skip


def levels(content: bytes) -> tuple[int, ...]:
    """The volumes of channels in a command."""
    (data,) = [one.data for one in values_of(content) if one.kind == "v"]
    return tuple(int.from_bytes(data[place : place + 4]) for place in range(0, len(data), 4))


def test_a_stream_of_a_quiet_host_is_quiet_from_its_start_and_loud_again_at_once() -> None:
    now = Loudness(50)
    made = SoundFilter("player (web)", COOKIE, OWN, lambda: now)
    made.from_client.feed(packet(AUTH) + packet(REQUEST))
    made.from_client.out.clear()
    made.from_server.feed(packet(number(2) + number(5) + STREAM))
    volume, mute = commands(bytes(made.from_client.out))
    assert ([one.number for one in values_of(volume) if one.kind == "L"][::2], levels(volume)) == ([VOLUME, 21], (0x8000, 0x8000))
    assert [one.kind for one in values_of(mute)] == ["L", "L", "L", "0"]
    # What the server answers to that is not the application's.
    before = bytes(made.from_server.out)
    for content in (volume, mute):
        made.from_server.feed(packet(number(2) + content[5:10]))
    assert bytes(made.from_server.out) == before
    made.from_client.out.clear()
    now = Loudness(100, muted=True)
    made.adjust()
    made.adjust()
    volume, mute = commands(bytes(made.from_client.out))
    assert (levels(volume), mute[-1:]) == ((0x10000, 0x10000), b"1")


def test_an_applications_own_volume_counts_beside_that_of_its_host_and_is_what_it_sees() -> None:
    made = SoundFilter("player (web)", COOKIE, OWN, lambda: Loudness(50, muted=True))
    made.from_client.feed(packet(AUTH) + packet(REQUEST))
    made.from_server.feed(packet(number(2) + number(5) + STREAM))
    made.from_client.out.clear()
    made.from_client.feed(packet(number(VOLUME) + number(6) + number(21) + b"v\x01" + (0x4000).to_bytes(4)))
    made.from_client.feed(packet(number(MUTE) + number(7) + number(21) + b"0"))
    volume, mute = commands(bytes(made.from_client.out))
    assert (levels(volume), mute[-1:]) == ((0x2000,), b"1")
    made.from_client.feed(packet(number(DESCRIBE) + number(8) + number(21)))
    made.from_server.out.clear()
    answer = number(2) + number(8) + number(21) + b"tname\0v\x01" + (0x2000).to_bytes(4) + b"U" + bytes(8) + b"t1\0" + b"1" + b"1"
    made.from_server.feed(packet(answer))
    (content,) = commands(bytes(made.from_server.out))
    assert content == answer.replace((0x2000).to_bytes(4), (0x4000).to_bytes(4))[:-2] + b"01"


def test_a_change_waits_for_the_end_of_a_packet_of_samples() -> None:
    now = Loudness()
    made = SoundFilter("player (web)", COOKIE, OWN, lambda: now)
    made.from_client.feed(packet(AUTH) + packet(REQUEST))
    made.from_server.feed(packet(number(2) + number(5) + STREAM))
    made.from_client.out.clear()
    data = struct.pack(">IIIII", 8, 7, 0, 0, 0) + b"12345678"
    made.from_client.feed(data[:25])
    now = Loudness(10)
    made.adjust()
    assert bytes(made.from_client.out) == data[:25]
    made.from_client.feed(data[25:])
    assert bytes(made.from_client.out[: len(data)]) == data
    volume, _ = commands(bytes(made.from_client.out[len(data) :]))
    assert levels(volume) == (0x10000 // 10,) * 2
