# SPDX-License-Identifier: Apache-2.0
"""JSON that others wrote: anything wrong with it is a ValueError, however deep, long or odd it is."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, Final

MOST_DEPTH: Final = 100
"""The most levels of nested lists and objects; real texts have five."""
_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_OTHER: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises ValueError.

    It also refuses more than MOST_DEPTH levels, NaN and infinities, numbers that are too large to compute with, and texts
    that are not Unicode.
    """
    if data.count(b"[") + data.count(b"{") > MOST_DEPTH and _depth(data) > MOST_DEPTH:
        raise ValueError(f"more than {MOST_DEPTH} levels of lists and objects")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    found = json.loads(text, parse_constant=_refused, parse_float=_finite)
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it is not Unicode") from None
    return found


def _depth(data: bytes) -> int:
    """Return how deep brackets outside of texts are nested."""
    steps = (_STEPS[byte] for byte in _TEXT.sub(b"", data).translate(None, _OTHER))
    return max(accumulate(steps), default=0)


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number
