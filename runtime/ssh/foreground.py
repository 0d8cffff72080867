# SPDX-License-Identifier: Apache-2.0
"""Run a command of a host as if it ran here: with our input and output, terminal, signals and exit status.

ssh joins its arguments with spaces and gives them to the host's shell; here each word arrives as it was typed. ssh ends
when it gets a signal, and without a terminal the command on the host would not learn of it; here it does.
"""

from __future__ import annotations

import secrets
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import AnswerError, LostError, StoppedError
from tower.ssh.sessions import Session

if TYPE_CHECKING:
    import subprocess

_LOST: Final = 255
"""The words of ssh when it has no connection; a command may print them, too."""
_PATIENCE: Final = 5.0
"""Seconds to reach the host with a signal."""
# The mark is in the arguments of the one shell that leads the command's process group, and comes on stdin here, so that it
# is in the arguments of nothing else. Builtins alone: `read` passes over the NULs between arguments, busybox' grep does not.
_KILL: Final = """\
IFS= read -r mark && [ -n "$mark" ] || exit 0
for process in /proc/[0-9]*; do
IFS= read -r words <"$process/cmdline"
case $words in *"$mark"*) kill -s "$1" -- "-${process#/proc/}" ;; esac
done 2>/dev/null
"""


def run(session: Session, argv: Sequence[str], *, tty: bool) -> int:
    """Run a command of the host; return its exit status, 128+N if signal N ended it.

    Raises LostError if the connection broke, StoppedError if a signal ended us and not the command.
    """
    mark = f"tower-{secrets.token_hex(16)}"
    # A shell that waits says by 128+N which signal ended a command; ssh would say 255 for all. Signals that the command gets
    # do not end the shell before it; the command itself has them as ever, for a trap does not outlive the exec.
    line = f": {mark}; trap : HUP INT QUIT TERM; {shlex.join(argv)}; exit $?"
    with proc.attached(session.client(line, tty=tty), missing="install openssh-client") as child:
        status = _wait(session, child, mark)
    if status == _LOST and not session.alive():
        raise LostError(f"{session.host.name}: the connection broke during {argv[0]}", hint="is it still on? See: tower status")
    return status if status >= 0 else 128 - status


def _wait(session: Session, child: subprocess.Popen[bytes], mark: str) -> int:
    """Wait for the end of the command, and pass signals on to it; on a second signal, stop waiting."""
    try:
        return child.wait()
    except (KeyboardInterrupt, StoppedError) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.Signals(stop.exit_status - 128)
        try:
            _tell(session, mark, number)
            status = child.wait()
        except (KeyboardInterrupt, StoppedError):
            _tell(session, mark, signal.SIGKILL)
            raise StoppedError(number) from None
    # Ctrl-C reaches ssh, too, which ends at once and does not return the command's status.
    if status in (_LOST, -number):
        raise StoppedError(number)
    return status


def _tell(session: Session, mark: str, number: signal.Signals) -> None:
    with suppress(AnswerError):  # the host cannot be reached: the command loses its connection
        name = number.name.removeprefix("SIG")
        session.run(["sh", "-c", _KILL, "sh", name], stdin=f"{mark}\n".encode(), timeout=_PATIENCE, check=False)
