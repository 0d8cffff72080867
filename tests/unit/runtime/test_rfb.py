# SPDX-License-Identifier: Apache-2.0
"""The filter of a display's pictures, and the client of X: what a hostile host sends reaches nobody."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.clipboard.courier import Courier
from tower.display import x11
from tower.display.relay import OddError, relay
from tower.display.x11 import key_in, new_key, open_server
from tower.windows.delays import Pictures
from tower.windows.manager import Manager, Shown
from tower.windows.rfb import ALLOWED, MOST_SIDE, PictureFilter

HELLO = b"RFB 003.008\n" + bytes([2, 2, 1]) + bytes(4)
FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def begin(width: int = 100, height: int = 50, name: bytes = b"host's name", form: bytes = FORMAT) -> bytes:
    return HELLO + struct.pack(">HH", width, height) + form + struct.pack(">I", len(name)) + name


def rectangle(x: int, y: int, width: int, height: int, encoding: int, content: bytes = b"") -> bytes:
    return struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, encoding) + content


def sent(data: bytes, *, at_once: bool = True) -> bytes:
    """What the viewer gets of what a server sends."""
    between = PictureFilter("calculator (web)")
    for part in [data] if at_once else [data[place : place + 1] for place in range(len(data))]:
        between.from_server.feed(part)
    return bytes(between.from_server.out)


GREETING = sent(begin())


def test_the_viewer_sees_our_name_and_not_the_hosts() -> None:
    assert GREETING.endswith(struct.pack(">I", 16) + b"calculator (web)")
    assert b"host's name" not in GREETING
    # The handshake that the viewer sees: one kind of security, none.
    assert GREETING.startswith(b"RFB 003.008\n" + bytes([1, 1]) + bytes(4) + struct.pack(">HH", 100, 50))


GOOD = {
    "raw": rectangle(1, 2, 3, 4, 0, bytes(48)),
    "copy": rectangle(0, 0, 10, 10, 1, struct.pack(">HH", 90, 40)),
    "zrle": rectangle(0, 0, 100, 50, 16, struct.pack(">I", 5) + b"abcde"),
    "cursor": rectangle(1, 1, 8, 8, -239, bytes(8 * 8 * 4 + 8)),
    "size": rectangle(0, 0, 8000, 100, -223) + rectangle(7000, 0, 100, 100, 0, bytes(40000)),
    "sizes": rectangle(0, 0, 200, 100, -308, b"\1\0\0\0" + bytes(16)),
    "refused size": rectangle(1, 3, 200, 100, -308, b"\1\0\0\0" + bytes(16)),
    "last": struct.pack(">BxHHHHHi", 0, 0xFFFF, 0, 0, 0, 0, -224),
    "bell": b"\x02",
}


@pytest.mark.parametrize("what", GOOD)
@pytest.mark.parametrize("at_once", [True, False])
def test_allowed_messages_pass_unchanged(what: str, at_once: bool) -> None:
    assert sent(begin() + GOOD[what] + GOOD["bell"], at_once=at_once) == GREETING + GOOD[what] + GOOD["bell"]


def test_true_colours_may_be_said_by_any_number() -> None:
    """x11vnc says 255."""
    assert sent(begin(form=FORMAT[:3] + b"\xff" + FORMAT[4:]) + GOOD["bell"]).endswith(GOOD["bell"])


def test_texts_of_the_server_are_dropped() -> None:
    assert sent(begin() + b"\x03\0\0\0" + struct.pack(">I", 6) + b"secret" + GOOD["bell"]) == GREETING + GOOD["bell"]


BAD = {
    "another protocol": b"SSH-2.0-abcd",
    "an older version": b"RFB 003.003\n" + bytes(4),
    "a password": b"RFB 003.008\n" + bytes([1, 2]) + bytes(4),
    "no security": b"RFB 003.008\n" + bytes([0]) + bytes(8),
    "not let in": b"RFB 003.008\n" + bytes([1, 1]) + b"\0\0\0\1",
    "the largest desktop": begin(65535, 65535),
    "a wide desktop": begin(MOST_SIDE + 1, 1),
    "many pixels": begin(MOST_SIDE, MOST_SIDE),
    "no desktop": begin(0, 10),
    "few colours": begin(form=b"\x08\x08" + FORMAT[2:]),
    "an endless name": HELLO + struct.pack(">HH", 100, 50) + FORMAT + b"\xff\xff\xff\xff",
    "a new size": begin() + rectangle(0, 0, 65535, 65535, -223),
    "a new size with screens": begin() + rectangle(0, 0, 65535, 65535, -308, b"\1\0\0\0" + bytes(16)),
    "a size that is kept": begin() + rectangle(0, 1, 65535, 65535, -308, b"\1\0\0\0" + bytes(16)),
    "many screens": begin() + rectangle(0, 0, 100, 100, -308, b"\xff\0\0\0"),
    "outside": begin() + rectangle(99, 0, 2, 1, 0),
    "copied from outside": begin() + rectangle(0, 0, 10, 10, 1, struct.pack(">HH", 91, 0)),
    "too many bytes": begin() + rectangle(0, 0, 10, 10, 16, b"\xff\xff\xff\xff"),
    "a large cursor": begin() + rectangle(0, 0, 257, 1, -239),
    "a cursor's odd point": begin() + rectangle(9, 0, 8, 8, -239),
    "hextile": begin() + rectangle(0, 0, 10, 10, 5),
    "tight": begin() + rectangle(0, 0, 10, 10, 7),
    "a desktop's name": begin() + rectangle(0, 0, 0, 0, -307, b"\0\0\0\1x"),
    "a colour map": begin() + b"\x01" + bytes(5),
    "an endless text": begin() + b"\x03\0\0\0\x7f\xff\xff\xff",
    "a text with extensions": begin() + b"\x03\0\0\0\xff\xff\xff\xf0",
    "an unknown message": begin() + b"\xfa",
}


@pytest.mark.parametrize("what", BAD)
def test_a_forbidden_message_ends_the_connection(what: str) -> None:
    between = PictureFilter("x")
    with pytest.raises(OddError):
        between.from_server.feed(BAD[what])
    out = bytes(between.from_server.out)
    assert b"\xff\xff\xff\xff" not in out


@given(st.binary(max_size=300), st.booleans())
def test_whatever_a_server_sends_is_passed_on_or_refused(data: bytes, begun: bool) -> None:
    """And never makes more of it than came."""
    between = PictureFilter("x")
    try:
        between.from_server.feed((begin() if begun else b"") + data)
    except OddError as error:
        assert str(error)
    assert len(between.from_server.out) <= len(GREETING) + len(data) + 1


@given(st.lists(st.sampled_from(sorted(GOOD)), max_size=8), st.integers(0, 400), st.integers(0, 255))
def test_a_good_stream_with_one_wrong_byte(parts: list[str], place: int, value: int) -> None:
    stream = bytearray(begin() + b"".join(GOOD[part] for part in parts))
    stream[place % len(stream)] = value
    try:
        sent(bytes(stream))
    except OddError:
        pass


def test_the_viewer_offers_what_the_filter_reads() -> None:
    between = PictureFilter("x")
    offered = [7, 5, 16, 0, 1, -239, -223, -308, -258, -314, -307, -256]
    hello = b"RFB 003.008\n\1\1"
    between.from_viewer.feed(hello + struct.pack(f">BxH{len(offered)}i", 2, len(offered), *offered))
    out = bytes(between.from_viewer.out)
    # No other viewer may stay: the last byte of the hello.
    assert out[:14] == b"RFB 003.008\n\1\0"
    count = struct.unpack_from(">H", out, 16)[0]
    assert set(struct.unpack_from(f">{count}i", out, 18)) == ALLOWED & set(offered)


def test_keys_pass_and_texts_of_the_viewer_do_not() -> None:
    between = PictureFilter("x")
    between.from_viewer.feed(b"RFB 003.008\n\1\1")
    before = len(between.from_viewer.out)
    key, pointer, asked = b"\x04\x01\0\0\0\0\0a", b"\x05\x01\0\x10\0\x10", b"\x03\0" + bytes(8)
    resized = b"\xfb\0\0\x64\0\x32\x01\0" + bytes(16)
    between.from_viewer.feed(key + b"\x06\0\0\0\0\0\0\x03abc" + pointer + asked + resized)
    assert bytes(between.from_viewer.out[before:]) == key + pointer + asked + resized


def test_a_flood_waits_for_a_viewer_that_does_not_read() -> None:
    server, ours = socket.socketpair()
    theirs, viewer = socket.socketpair()
    done: list[object] = []
    going = True

    def run() -> None:
        between = PictureFilter("x")
        done.append(relay(ours, theirs, between.from_server, between.from_viewer, lambda: going))

    thread = threading.Thread(target=run)
    thread.start()
    server.sendall(begin(1000, 1000))
    server.settimeout(1)
    content, total = rectangle(0, 0, 1000, 1000, 0) + bytes(4_000_000), 0
    with pytest.raises(TimeoutError):
        while total < 400_000_000:
            total += server.send(content[:1_000_000])
    assert total < 40_000_000
    viewer.close()
    thread.join(20)
    assert done == [theirs]
    server.close()


# --- X ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def greeting(*, vendor: int = 0, formats: int = 0, length: int | None = None) -> bytes:
    body = struct.pack("<IIIIHHBBBBBBBB4x", 1, 0, 0, 0, vendor, 0, 1, formats, 0, 0, 32, 32, 8, 255)
    body += struct.pack("<I16xHH", 0x100, 800, 600) + bytes(20)
    return struct.pack("<BxHHH", 1, 11, 0, len(body) // 4 if length is None else length) + body


def test_a_greeting(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(greeting())
    made = open_server(pair[0], new_key()[0])
    assert (made.root, made.width, made.height) == (0x100, 800, 600)


@pytest.mark.parametrize(
    "said", [b"", b"\0" * 8, b"\2" + bytes(7), greeting(vendor=60000), greeting(formats=255), greeting(length=2), b"\1" * 8]
)
def test_an_odd_greeting(pair: tuple[socket.socket, socket.socket], said: bytes) -> None:
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(OddError, match=r"^X: "):
        open_server(pair[0], bytes(16))


class Silent:
    """A window that shows nothing."""

    def ask(self, number: int, text: str) -> None:
        del number, text

    def say(self, text: str) -> None:
        del text


def courier() -> Courier:
    return Courier("web", False, Silent(), lambda _: None)


@given(st.binary(max_size=400))
def test_whatever_an_x_server_says_ends_in_our_words(said: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall(greeting() + said)
        other.shutdown(socket.SHUT_WR)
        shown: list[Shown] = []
        with pytest.raises((OddError, OSError)):
            server = open_server(one, bytes(16))
            Manager(server, shown.append, courier()).run()


@given(st.binary(max_size=200), st.booleans())
def test_whatever_a_vnc_server_says_to_the_doctor_ends_in_our_words(said: bytes, begun: bool) -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall((begin() if begun else b"") + said)
        other.shutdown(socket.SHUT_WR)
        with pytest.raises((OddError, OSError)):
            Pictures(one).wait(1 << 20)


def test_an_answer_has_a_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(greeting() + struct.pack("<BxHI24x", 1, 1, 0x7FFFFFFF))
    server = open_server(pair[0], bytes(16))
    with pytest.raises(OddError, match="an answer of"):
        server.ask(x11.INTERN_ATOM, 0, "HH", 1, 0, data=b"A")


def test_keys_of_displays() -> None:
    key, file = new_key()
    assert key_in(file) == key
    for odd in (b"", file[:-1], file + b"x"):
        with pytest.raises(OddError):
            key_in(odd)
