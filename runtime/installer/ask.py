# SPDX-License-Identifier: Apache-2.0
"""Ask for the answers of an installation, one after the other, on a terminal or a serial line.

Enter takes what is in brackets, `back` goes to the question before, and an answer that cannot be right is asked for again
with the reason. Nothing is changed here.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tower.base import streams
from tower.base.errors import TowerError, ValueRefusedError, printable
from tower.base.names import parse_lang, parse_user_name
from tower.disk.device import Disk
from tower.hosts import known
from tower.hosts.secret import hash_password
from tower.installer.answers import DEFAULTS, Answers, parse_choice, parse_swap, typed
from tower.installer.plan import LEAST_BOOT, why_no_root

BACK: Final = "back"
_GONE: Final = "nobody answers any more"
_SECURE_BOOT: Final = "Secure Boot with keys of your own: this machine then starts nothing else, yes or no"

Taken = dict[str, str]
Parse = Callable[[str, Mapping[str, str]], str]
"""Turns a typed text into a value, given the answers so far. Raises ValueRefusedError."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `default` is taken for an empty answer."""

    name: str
    text: str
    parse: Parse
    default: str = ""
    secret: bool = False


def questions(disks: tuple[Disk, ...], *, setup_mode: bool) -> tuple[Question, ...]:
    """Return all questions in order; with `setup_mode`, the firmware takes keys for Secure Boot."""
    return (
        Question("ROOT_DISK", "The disk for the system, which will be wiped", _disk(disks, root=True)),
        Question(
            "BOOT_DEVICE", "The boot device, a removable disk, which will be wiped and hold the key", _disk(disks, root=False)
        ),
        Question("SWAP", "Size of swap, such as 2G, or 0M for none", lambda text, _: _size(text), DEFAULTS["SWAP"]),
        Question("USERNAME", "Your user name", lambda text, _: parse_user_name(text)),
        Question("PASSWORD_HASH", "Your password", lambda text, _: hash_password(text), secret=True),
        Question("KEYBOARD_LAYOUT", "Keyboard layout, such as us, de, fr", lambda text, _: known.keyboard(text)[0], "us"),
        Question("KEYBOARD_VARIANT", "Variant of the keyboard, such as fr-bepo (Enter: none)", _variant),
        Question("TIMEZONE", "Time zone, such as Europe/Paris", lambda text, _: known.time_zone(text), DEFAULTS["TIMEZONE"]),
        Question("LANG", "Language, such as fr_FR.UTF-8", lambda text, _: parse_lang(text), DEFAULTS["LANG"]),
        _choice("DESKTOP", "Start the desktop when you log in, yes or no"),
        *([_choice("SECURE_BOOT", _SECURE_BOOT)] if setup_mode else []),
    )


def _choice(name: str, text: str) -> Question:
    return Question(name, text, lambda answer, _: parse_choice(answer, name), DEFAULTS[name])


def ask(disks: tuple[Disk, ...], *, setup_mode: bool = False) -> Answers:
    """Ask all questions. Raises TowerError if the input ends."""
    asked, taken, place = questions(disks, setup_mode=setup_mode), Taken(), 0
    streams.note(f"Enter takes what is in brackets, `{BACK}` goes to the question before. Nothing is changed before the end.\n")
    streams.note(_listed(disks))
    while place < len(asked):
        found = _one(asked[place], taken)
        if found is None:
            place = max(0, place - 1)
            continue
        taken[asked[place].name] = found
        place += 1
    return typed(DEFAULTS | taken)


def _one(question: Question, taken: Taken) -> str | None:
    """Ask one question until the answer is valid; return None to go back. Raises TowerError if the input ends."""
    while True:
        default = "" if question.secret else taken.get(question.name, question.default)
        text = _read(f"{question.text}{f' [{default}]' if default else ''}: ", secret=question.secret)
        if text == BACK or (question.secret and not text):
            return None
        if question.secret and _read("The same again: ", secret=True) != text:
            streams.note("  the two are not the same\n")
            continue
        try:
            return question.parse(text or default, taken)
        except ValueRefusedError as error:
            streams.note(f"  {printable(error.message)}{f' ({printable(error.hint)})' if error.hint else ''}\n")


def _read(prompt: str, *, secret: bool) -> str:
    if secret:
        try:
            return getpass.getpass(prompt, sys.stderr)
        except EOFError:
            raise TowerError(_GONE, hint="nothing was changed") from None
    streams.note(prompt)
    line = streams.line()
    if not line:
        raise TowerError(_GONE, hint="nothing was changed")
    return line.strip()


def _listed(disks: tuple[Disk, ...]) -> str:
    rows = [f"  {disk}{_use(disk)}\n" for disk in disks if disk.kind != "loop"]
    return "Disks of this machine:\n" + ("".join(rows) or "  none\n")


def _use(disk: Disk) -> str:
    uses = [*(["system"] if not why_no_root(disk, 0) else []), *(["boot device"] if not disk.why_not(LEAST_BOOT) else [])]
    return f": for {' or '.join(uses)}" if uses else f": {why_no_root(disk, 0)}"


def _disk(disks: tuple[Disk, ...], *, root: bool) -> Parse:
    def parse(text: str, taken: Mapping[str, str]) -> str:
        found = [disk for disk in disks if text and text in (str(disk.path), disk.path.name, disk.serial)]
        if len(found) != 1:
            raise ValueRefusedError(f"{text or 'that'} is not one of the disks", hint="type its name, such as /dev/sda")
        if why := why_no_root(found[0], 0) if root else found[0].why_not(LEAST_BOOT):
            raise ValueRefusedError(f"{found[0]}: {why}", hint="take another one")
        if not root and str(found[0].path) == taken.get("ROOT_DISK"):
            raise ValueRefusedError("this is the disk for the system", hint="take another one, which can be removed")
        return str(found[0].path)

    return parse


def _size(text: str) -> str:
    parse_swap(text)
    return text


def _variant(text: str, taken: Mapping[str, str]) -> str:
    return known.keyboard(taken["KEYBOARD_LAYOUT"], text)[1] if text else ""
