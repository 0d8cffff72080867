# SPDX-License-Identifier: Apache-2.0
"""Tell somebody who has no terminal, as who chose an entry of the menu, what went wrong: in a window."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import ToolError, printable
from tower.windows.session import PYTHON, has_screen

_MOST: Final = 2000


def tell(title: str, text: str) -> None:
    """Show a text in a window until that is closed. Without a desktop, or its libraries, nothing is shown."""
    if not has_screen():
        return
    env = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2])}
    argv = (PYTHON, "-m", "tower.windows.notice", printable(title), printable(text)[:_MOST])
    with suppress(ToolError), proc.running(argv, stdout=proc.NULL, env=env) as child:
        child.wait()
