# SPDX-License-Identifier: Apache-2.0
"""JSON that others wrote: what is wrong with it is always a ValueError, however deep, long or odd it is."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, Final

MOST_DEPTH: Final = 100
"""How deep lists and objects may lie in each other; real ones lie five deep."""
_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_OTHER: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError.

    Beside what is no JSON, that is: more than MOST_DEPTH levels, numbers that are none or too large for what is done with
    numbers, and texts that are no Unicode.
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
            raise ValueError("a text in it is no Unicode") from None
    return found


def _depth(data: bytes) -> int:
    """How deep brackets outside of texts lie in each other."""
    steps = (_STEPS[byte] for byte in _TEXT.sub(b"", data).translate(None, _OTHER))
    return max(accumulate(steps), default=0)


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number
