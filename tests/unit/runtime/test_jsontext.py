# SPDX-License-Identifier: Apache-2.0
"""JSON of foreign hands: read, or a ValueError; never a RecursionError, and nothing that breaks what comes after."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.jsontext import MOST_DEPTH, parse_json

ODD = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep, and never closed": b"[" * 1_000_000,
    "a little too deep": b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1),
    "deep behind a text": b'["\\"[", ' + b"[" * MOST_DEPTH + b"]" * MOST_DEPTH + b"]",
    "deep in a text that does not end": b'"' + b"[" * 5000,
    "a number of many digits": b"1" * 10_000,
    "infinity": b"1e999",
    "minus infinity": b"-1e999",
    "a word for infinity": b"[Infinity]",
    "no number": b"NaN",
    "half of a pair": b'"\\ud800"',
    "half of a pair as a key": b'{"\\udfff": 1}',
    "no UTF-8": b'"\xff"',
    "UTF-16": "[]".encode("utf-16"),
    "a mark in front": b"\xef\xbb\xbf[]",
    "nothing": b"",
    "zeros": bytes(100),
    "two values": b"1 2",
    "cut off": b'{"a": [1, 2',
}


@pytest.mark.parametrize("kind", ODD)
def test_deep_or_invalid_json_is_refused_at_once(kind: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError):
        parse_json(ODD[kind])
    assert time.monotonic() - begin < 5


def test_json_of_the_greatest_allowed_depth_is_read() -> None:
    data = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
    assert json.dumps(parse_json(data)).encode() == data
    assert parse_json(b'{"a": "[[[[\\\\", "b": "\\ud83d\\ude00 {{{\\"["}') == {"a": "[[[[\\", "b": '\U0001f600 {{{"['}


TEXT = st.text().filter(lambda text: text.isprintable())
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUE = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


@given(VALUE)
def test_everything_else_is_unchanged(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        wanted = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError):
            parse_json(data)
        return
    assert parse_json(data) == wanted
