# SPDX-License-Identifier: Apache-2.0
"""Wait until a host answers for the first time: its network, its ssh server, its own key, its system.

The host's key was made when it was provisioned, so a machine that answers with it has the host's disk. A machine
with another key at that address is an error at once; a host that is still starting is waited for, and its steps are shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tower.base import proc
from tower.base.errors import AnswerError
from tower.base.jsontext import parse_json
from tower.base.proc import OverrunError
from tower.base.view import View
from tower.hosts.registry import RECEIPT_ON_BOOT, Host, Tower
from tower.provision import progress
from tower.provision.progress import FirstStartWatch

_PAUSE: Final = 2.0
_SHORT_PAUSE: Final = 0.5
_MOST: Final = 64 << 10
_MOST_NAME: Final = 200
_ID: Final = re.compile(r"[0-9a-f]{32}")
_MARK: Final = "-- receipt --"
_QUESTION: Final = f"cat /etc/os-release; echo; echo '{_MARK}'; cat /etc/tower/{RECEIPT_ON_BOOT} 2>/dev/null || true"
"""The command for the host. A constant without data of the user or the host."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A host's description of itself."""

    system: str
    receipt_id: str
    """Empty if it has no receipt, or no longer has one."""
    steps: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the steps of its first start that were seen to end."""


def wait_for(host: Host, tower: Tower, *, limit: float, view: View, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """Return the host's first answer. Raises AnswerError if it is another machine, or after `limit` seconds."""
    end = time.monotonic() + limit
    told, watch = "", FirstStartWatch(host, view)
    while True:
        state, answer = ask(watch, tower)
        if answer is not None:
            view.say(f"{host.name}: {answer.system}")
            return replace(answer, steps=watch.seconds)
        if state != told:
            view.say(f"{host.name}: {state}")
            told = state
        if time.monotonic() >= end:
            raise AnswerError(
                f"{host.name}: no answer within {limit:.0f} s: {state}",
                hint=f"is its boot device inserted, is it on and plugged in? Wait again: tower provision --resume {host.name}",
            )
        sleep(_SHORT_PAUSE if state == progress.BUSY else _PAUSE)


def ask(watch: FirstStartWatch, tower: Tower) -> tuple[str, Answer | None]:
    """Return the host's present state in words, and its answer if it gave one.

    Raises AnswerError if it is another machine, or its first start has failed.
    """
    host = watch.host
    try:
        if state := watch.ask():
            return state, None
    except ConnectionRefusedError:
        return "is on, but its ssh server is not running yet", None
    except OSError:
        return f"waiting for {host.env.address} on the {host.env.network.name} network", None
    argv = ("ssh", "-F", tower.config, "-n", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "--", host.name, _QUESTION)
    try:
        done = proc.run(argv, timeout=30, check=False, missing="install openssh-client", most=2 * _MOST)
    except OverrunError as error:
        return f"accepts the connection, but gives no valid answer yet ({error.message})", None
    if done.status == 0:
        return "", parse_answer(done.stdout, host.name)
    said = done.stderr.decode(errors="replace")
    if "Host key verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
        raise AnswerError(
            f"{host.name}: the machine at {host.env.address} has another host key than the one made for {host.name}",
            hint="it started from another disk, or it is another machine",
        )
    if "Permission denied" in said:
        return "its ssh server does not accept the key yet", None
    return "its ssh server does not answer yet", None


def parse_answer(data: bytes, name: str) -> Answer:
    """Parse the output of a host. Raises AnswerError if it is not valid; nothing of it is trusted but its text."""
    if len(data) > _MOST:
        raise AnswerError(f"{name}: describes its system in more than {_MOST} bytes", hint="is it a host of TowerOS?")
    text = data.decode(errors="replace")
    release, mark, rest = text.partition(f"\n{_MARK}\n")
    rows = dict(line.partition("=")[::2] for line in release.splitlines())
    system = rows.get("PRETTY_NAME", "").strip().strip("\"'")
    if len(system) > _MOST_NAME:
        raise AnswerError(f"{name}: its system has a name of more than {_MOST_NAME} characters", hint="is it a host of TowerOS?")
    if not mark or not system or not system.isprintable():
        raise AnswerError(f"{name}: its answer is not a description of a system", hint="is it a host of TowerOS?")
    try:
        found = parse_json(rest.encode())["id"] if rest.strip() else ""
    except (ValueError, KeyError, TypeError):
        raise AnswerError(
            f"{name}: its receipt is not valid", hint=f"see it: ssh {name} cat /etc/tower/{RECEIPT_ON_BOOT}"
        ) from None
    if found and not (isinstance(found, str) and _ID.fullmatch(found)):
        raise AnswerError(f"{name}: its receipt has no ID of a provisioning", hint="it was started from another disk")
    return Answer(system, found)


def check_receipt(answer: Answer, wanted: str, name: str) -> None:
    """Raise AnswerError if another provisioning than ours made the host."""
    if answer.receipt_id and answer.receipt_id != wanted:
        raise AnswerError(
            f"{name}: was provisioned as {answer.receipt_id[:12]}, expected {wanted[:12]}",
            hint="it started from an older disk",
        )
