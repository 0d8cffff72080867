# SPDX-License-Identifier: Apache-2.0
"""Repair a machine on which `tower install` was interrupted; the next `tower` that connects to it does this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tower.base.errors import TowerError
from tower.hosts.registry import WORLD
from tower.install.apk import PROGRAM, clean, words_of
from tower.install.wanted import record_wanted

if TYPE_CHECKING:
    from tower.ssh.sessions import Session

_SECONDS: Final = 400.0


def repair(session: Session, say: Callable[[str], object]) -> None:
    """Have the host undo an interrupted installation, and note a finished one; a failure is reported, but is no error."""
    name = session.host.name
    try:
        done = session.root([PROGRAM, "repair"], timeout=_SECONDS, check=False, most=1 << 20)
        for line in map(clean, done.stdout.splitlines()):
            who, _, text = line.partition(" ")
            word, _, rest = text.partition(" ")
            if (who, word) == ("tower", "undone"):
                say(f"{name}: an interrupted installation was undone: {rest}")
            elif (who, word) == ("tower", "installed"):
                record_wanted(session.host.file(WORLD), words_of(rest, name))
                session.root([PROGRAM, "forget"], timeout=60)
                say(f"{name}: an earlier installation was finished without us: {rest}")
            elif (who, word) == ("tower", "failed"):
                say(f"{name}: {rest}; try: tower install {name} PACKAGE")
    except TowerError as error:
        say(f"{name}: an interrupted installation is not repaired yet: {error.message}")
