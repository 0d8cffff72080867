# SPDX-License-Identifier: Apache-2.0
"""What stands between a host's applications and the sound server: they may play, and nothing else.

Whoever may speak with a sound server may also listen to the microphone, to other applications, and load modules. So each message
of a host is read: commands for its own playback streams, and questions about the outputs, go on; any other command is answered
with "access denied". The host knows a cookie, which is made for each window; the server never sees it. Memory is not shared.

Source of the format: PulseAudio's native protocol (its PROTOCOL file, and the tags and commands of `pulsecore/tagstruct.h` and
`native-common.h`). A packet is a head of five 32-bit numbers (length, channel, offset twice, flags) and its content: on channel
-1 a command, a list of values of which each has a letter for its type; on any other channel, samples of that stream.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tower.base.errors import printable
from tower.display.relay import Half, OddError, Rules, Through
from tower.windows.loudness import FULL, WHOLE, Loudness

COOKIE_BYTES: Final = 256
_HEAD: Final = struct.Struct(">IIIII")
_COMMANDS: Final = 0xFFFFFFFF
_MOST_COMMAND: Final = 64 << 10
_MOST_SAMPLES: Final = 16 << 20
_MOST_ANSWER: Final = 4 << 20
_MOST_STREAMS: Final = 64
_SHARED_MEMORY: Final = 0xE0000000
"""Bits of a packet's flags, and of the version in a handshake."""
_VERSION: Final = 35
_NEWEST: Final = 0xFFFF
_TEXT: Final = 100
_DENIED: Final = 1

_ERROR, _REPLY = 0, 2
_CREATE, _DELETE, _AUTH, _NAME = 3, 4, 8, 9
_SUBSCRIBE: Final = 35
_KILLED: Final = 64
_DESCRIBE, _SET_VOLUME, _SET_MUTE = 29, 37, 69
"""Of the mixer's input that a stream is. The server takes any input's number."""
_UNCHANGED: Final = 0x10000
"""A volume at which samples are played as they are."""
_OWN_TAGS: Final = 0x80000000
"""The tags of commands that are ours begin here; the server gives answers back with the tag of their command."""
_FOR_ALL: Final = frozenset({10, 13, 20, 21, 22})
"""Look an output up by its name, count memory, describe the server, an output, all outputs."""
_FOR_STREAM: Final = frozenset({12, 14, 41, 42, 43, 46, 60, 72, 74})
"""Of a stream of this connection, by its number: drain, latency, pause, flush, start, name, prefill, buffers, rate."""
_FOR_INPUT: Final = frozenset({_DESCRIBE, _SET_VOLUME, _SET_MUTE})
_OUTPUTS: Final = 0x0001 | 0x0080
"""What events there may be about: outputs and the server."""
_FROM_SERVER: Final = frozenset({_ERROR, _REPLY, 61, 62, 63, _KILLED, 66, 76, 78, 86, 92, 94})
"""Answers, and: it wants samples, has too many or none; a stream was ended; an output changed; a stream was paused or moved, is
played, has an event, has other buffers."""
_SIZES: Final = {"L": 4, "B": 1, "R": 8, "r": 8, "a": 6, "T": 8, "U": 8, "V": 4, "1": 0, "0": 0, "N": 0}
_CHOSEN: Final = (b"media.name", b"media.role")
"""The properties of a stream that a host may choose; others would tell the server where it leads."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a command, and its place there."""

    kind: str
    start: int
    end: int
    data: bytes

    @property
    def number(self) -> int:
        """A 32-bit number. Raises OddError for anything else."""
        if self.kind != "L":
            raise OddError("sends a command that makes no sense")
        return int.from_bytes(self.data)


def values_of(data: bytes) -> Iterator[Value]:
    """Yield the values of a command; lists of properties as one value. Raises OddError."""
    place = 0
    while place < len(data):
        start = place
        kind = chr(data[place])
        if kind == "P":
            content, end = start + 1, _entries(data, start + 1)[1]
        else:
            content, end = _content(data, kind, place + 1)
        yield Value(kind, start, end, data[content:end])
        place = end


def _content(data: bytes, kind: str, place: int) -> tuple[int, int]:
    """Return where the content of a value begins, and where it ends."""
    if kind in _SIZES:
        begin, size = place, _SIZES[kind]
    elif kind == "t":
        begin, size = place, data.find(b"\0", place) + 1 - place
    elif kind == "x":
        begin, size = place + 4, int.from_bytes(data[place : place + 4])
    elif kind in "mv":
        begin, size = place + 1, int.from_bytes(data[place : place + 1]) * (1 if kind == "m" else 4)
    elif kind == "f":
        # The encoding, and properties.
        if data[place : place + 1] != b"B" or data[place + 2 : place + 3] != b"P":
            raise OddError("sends a command that makes no sense")
        begin, size = place, _entries(data, place + 3)[1] - place
    else:
        raise OddError("sends a command that makes no sense")
    if size < 0 or begin + size > len(data):
        raise OddError("sends a command that is cut off")
    return begin, begin + size


def _entries(data: bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    """Return a list of properties, and where it ends."""
    found = {}
    while data[place : place + 1] != b"N":
        contents = []
        for kind in "tLx":
            if data[place : place + 1] != kind.encode():
                raise OddError("sends a command that makes no sense")
            begin, place = _content(data, kind, place + 1)
            contents.append(data[begin:place])
        found[contents[0][:-1]] = contents[2]
    return found, place + 1


def number(value: int) -> bytes:
    """Return a 32-bit number as a value."""
    return b"L" + value.to_bytes(4)


def properties(entries: dict[bytes, bytes]) -> bytes:
    """Return a list of properties; keys and texts have no zero."""
    rows = []
    for key, text in entries.items():
        size = (len(text) + 1).to_bytes(4)
        rows.append(b"t" + key + b"\0L" + size + b"x" + size + text + b"\0")
    return b"P" + b"".join(rows) + b"N"


def packet(content: bytes) -> bytes:
    """Return a command as a packet."""
    return _HEAD.pack(len(content), _COMMANDS, 0, 0, 0) + content


def switch(on: bool) -> bytes:
    """Return a truth value as a value."""
    return b"1" if on else b"0"


def volumes(levels: tuple[int, ...], percent: int = WHOLE) -> bytes:
    """Return the volumes of channels as a value, lowered to so many percent of them."""
    return b"v" + bytes([len(levels)]) + b"".join((one * percent // WHOLE).to_bytes(4) for one in levels)


@dataclass(slots=True)
class _Stream:
    """A stream of an application: the volume that it wants of its own, and what the server was told of the host's."""

    levels: tuple[int, ...]
    muted: bool
    told: Loudness = FULL
    input: int = 0
    """The mixer's input that it is."""


@dataclass(slots=True)
class SoundFilter:
    """Both directions of one connection of a host's application; `name` is what a mixer shows of it."""

    name: str
    cookie: bytes = field(repr=False)
    own: bytes = field(repr=False)
    """The server's cookie, in place of the host's."""
    loudness: Callable[[], Loudness] = lambda: FULL
    """Says how loud the host may be now."""
    from_server: Half = field(default_factory=Half)
    from_client: Half = field(default_factory=Half)
    _let_in: bool = False
    _asked: dict[int, _Stream] = field(default_factory=dict)
    """By their tags, the requests for a stream that are not answered yet."""
    _described: dict[int, _Stream] = field(default_factory=dict)
    """By their tags, the questions about a stream's input."""
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _within: bool = False
    """Whether a packet of samples is only partly on its way."""
    _own: set[int] = field(default_factory=set)
    """The tags of commands of ours that are not answered yet."""
    _commands: int = 0

    def __post_init__(self) -> None:
        self.from_server.follow(self._server())
        self.from_client.follow(self._client())

    # The application's messages.

    def _client(self) -> Rules:
        while True:
            head = yield _HEAD.size
            length, channel, *_, flags = _HEAD.unpack(head)
            if flags & _SHARED_MEMORY:
                raise OddError("sends memory that is shared")
            if channel == _COMMANDS:
                if length > _MOST_COMMAND:
                    raise OddError(f"sends a command of {length} bytes")
                self._command((yield length))
            elif length > _MOST_SAMPLES:
                raise OddError(f"sends {length} bytes of samples")
            elif channel in self._streams:
                self.from_client.out += head
                self._within = True
                yield Through(length)
                self._within = False
                self.adjust()
            else:
                # Of a stream that has ended meanwhile.
                yield from _dropped(length)

    def _command(self, content: bytes) -> None:
        found = list(values_of(content))
        if len(found) < 2:
            raise OddError("sends a command that is cut off")
        command, tag, rest = found[0].number, found[1].number, found[2:]
        made: bytes | None = None
        if not self._let_in:
            made = self._handshake(command, tag, rest)
        elif command == _CREATE:
            made = self._create(content, tag, found)
        elif command == _NAME:
            made = number(command) + number(tag) + properties({b"application.name": self.name.encode()})
        elif command == _SUBSCRIBE and rest:
            made = number(command) + number(tag) + number(rest[0].number & _OUTPUTS)
        elif command == _DELETE and rest and rest[0].number in self._streams:
            del self._streams[rest[0].number]
            made = content
        elif command in _FOR_ALL:
            made = content
        elif self._concerns_own(command, rest):
            made = self._own_stream(content, command, tag, rest)
        if made is None:
            self.from_server.out += packet(number(_ERROR) + number(tag) + number(_DENIED))
        else:
            self.from_client.out += packet(made)

    def _handshake(self, command: int, tag: int, rest: list[Value]) -> bytes:
        if command != _AUTH or [one.kind for one in rest] != ["L", "x"]:
            raise OddError("does not say who it is")
        if not hmac.compare_digest(rest[1].data, self.cookie):
            raise OddError("has another cookie")
        self._let_in = True
        version = min(rest[0].number & _NEWEST, _VERSION)
        return number(_AUTH) + number(tag) + number(version) + b"x" + len(self.own).to_bytes(4) + self.own

    def _create(self, content: bytes, tag: int, found: list[Value]) -> bytes | None:
        """Return a request for a stream with the properties that a host may choose."""
        if len(self._streams) + len(self._asked) >= _MOST_STREAMS:
            return None
        self._asked[tag] = _wanted(found)
        made, place = b"", 0
        for one in found:
            if one.kind == "P":
                made += content[place : one.start] + properties(_kept(one.data, self.name))
                place = one.end
        return made + content[place:]

    def _concerns_own(self, command: int, rest: list[Value]) -> bool:
        """Tell whether a command is allowed, and about a stream of this connection."""
        if not rest or rest[0].kind != "L":
            return False
        which = rest[0].number
        return (command in _FOR_STREAM and which in self._streams) or (command in _FOR_INPUT and self._input(which) is not None)

    def _input(self, which: int) -> _Stream | None:
        return next((one for one in self._streams.values() if one.input == which), None)

    def _own_stream(self, content: bytes, command: int, tag: int, rest: list[Value]) -> bytes:
        """Return a command about a stream; what it sets counts beside the loudness of the host."""
        stream = self._input(rest[0].number) if command in _FOR_INPUT else None
        if stream is None:
            return content
        head = number(command) + number(tag) + number(stream.input)
        if command == _SET_VOLUME and len(rest) > 1 and rest[1].kind == "v":
            stream.levels = _levels(rest[1])
            return head + volumes(stream.levels, stream.told.percent)
        if command == _SET_MUTE and len(rest) > 1 and rest[1].kind in "10":
            stream.muted = rest[1].kind == "1"
            return head + switch(stream.muted or stream.told.muted)
        if command == _DESCRIBE and len(self._described) < _MOST_STREAMS:
            self._described[tag] = stream
        return content

    def adjust(self) -> None:
        """Tell the server how loud the host's streams are, if that has changed. To be called now and then."""
        now = self.loudness()
        for stream in () if self._within else self._streams.values():
            if stream.told != now:
                stream.told = now
                self._tell(_SET_VOLUME, stream, volumes(stream.levels, now.percent))
                self._tell(_SET_MUTE, stream, switch(stream.muted or now.muted))

    def _tell(self, command: int, stream: _Stream, value: bytes) -> None:
        tag = _OWN_TAGS + self._commands % _OWN_TAGS
        self._commands += 1
        self._own.add(tag)
        self.from_client.out += packet(number(command) + number(tag) + number(stream.input) + value)

    # The server's messages. It is ours: what is looked at is what the rules above need to know.

    def _server(self) -> Rules:
        while True:
            head = yield _HEAD.size
            length, channel, *_, flags = _HEAD.unpack(head)
            if flags & _SHARED_MEMORY or channel != _COMMANDS or length > _MOST_ANSWER:
                raise OddError("the server sends what was not asked for")
            content = yield length
            found = values_of(content)
            command, tag = next(found).number, next(found).number
            if command not in _FROM_SERVER:
                continue
            if command in (_REPLY, _ERROR) and tag in self._own:
                self._own.discard(tag)
                continue
            if command == _REPLY and tag in self._asked:
                number_here, mixer_input = next(found).number, next(found).number
                self._streams[number_here] = stream = self._asked[tag]
                stream.input = mixer_input
                self.adjust()
            elif command == _KILLED:
                self._streams.pop(next(found).number, None)
            elif command == _REPLY and tag in self._described:
                content = _as_wanted(content, list(found), self._described[tag])
            if command in (_REPLY, _ERROR):
                self._asked.pop(tag, None)
                self._described.pop(tag, None)
            self.from_server.out += _HEAD.pack(len(content), *_HEAD.unpack(head)[1:]) + content


def _levels(value: Value) -> tuple[int, ...]:
    return tuple(int.from_bytes(value.data[place : place + 4]) for place in range(0, len(value.data), 4))


def _wanted(found: list[Value]) -> _Stream:
    """Return a stream with the volume that a request asks for; without one, samples are played as they are."""
    kinds = [one.kind for one in found]
    channels = found[2].data[1] if len(found) > 2 and kinds[2] == "a" else 0
    levels, muted = (_UNCHANGED,) * channels, False
    if "v" in kinds and "P" in kinds:
        # Before the properties: mute; after them: whether the volume counts, and, two values later, whether mute does.
        place = kinds.index("P")
        after = [*kinds[place + 1 :], "0", "0", "0"]
        muted = kinds[place - 2] == "1" and after[2] == "1"
        if after[0] == "1":
            levels = _levels(found[kinds.index("v")])
    return _Stream(levels, muted)


def _as_wanted(content: bytes, found: list[Value], stream: _Stream) -> bytes:
    """Return the description of an input with the volume that the application set: it may set it again, lower or higher."""
    kinds = [one.kind for one in found]
    if "v" not in kinds:
        return content
    level = found[kinds.index("v")]
    mute = next((one for one in found if one.start > level.start and one.kind in "10"), None)
    made = content[: level.start] + volumes(stream.levels) + content[level.end :]
    if mute is None:
        return made
    moved = len(made) - len(content) + mute.start
    return made[:moved] + switch(stream.muted) + made[moved + 1 :]


def _kept(data: bytes, name: str) -> dict[bytes, bytes]:
    """Return the properties of a stream that a host may choose, and those that it may not."""
    # The desktop need not remember its volume: the host has one.
    kept = {b"application.name": name.encode(), b"state.restore-props": b"false"}
    for key, text in _entries(data, 0)[0].items():
        if key in _CHOSEN:
            kept[key] = printable(text.split(b"\0")[0].decode(errors="replace"))[:_TEXT].encode()
    return kept


def _dropped(length: int) -> Rules:
    while length:
        length -= len((yield min(length, 64 << 10)))
