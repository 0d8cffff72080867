# SPDX-License-Identifier: Apache-2.0
"""The folders for sockets of connections: one for each, that nobody else may enter, removed with its `tower`.

A killed `tower` leaves its folder; the next one removes it. A lock on the folder says that it is in use.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tower.base.errors import StateError
from tower.base.files import own_folder
from tower.base.refused import refused

_PREFIX: Final = "tower-"
_MOST: Final = 104 - len("/tower-12345678/s.1234567890123456") - 1
"""The most bytes of a folder's path; a socket's path is limited to 104, and ssh first makes it under a longer name."""


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder for the sockets of one connection. Raises StateError if there is no place for it."""
    parent = _parent()
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(own_folder(parent, _PREFIX))
        except OSError as error:
            raise refused(error, parent, hint="you must be able to write to it") from error
        yield folder


def _parent() -> Path:
    for text in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it safe)
        path = Path(text)
        if text and len(os.fsencode(text)) <= _MOST and path.is_absolute() and os.access(path, os.W_OK | os.X_OK):
            return path
    raise StateError("there is no folder for sockets", hint="make $XDG_RUNTIME_DIR or /tmp writable")
