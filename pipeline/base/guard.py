# SPDX-License-Identifier: Apache-2.0
"""End the programs of a process that was killed: after SIGKILL, the process itself cannot.

A small shell waits beside the process for the end of a pipe, which comes however the process ends. The process tells it
which process groups run, and the shell kills those that are still there. A number that another process has by now is
recognised by its start time, and left alone.

A process may be killed after it started a program and before it told the shell the program's number. So it also announces
each start, and the shell then looks for programs that carry its mark in their environment.
"""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

_VARIABLE = "TOWER_GUARD"
_SCRIPT = """
cd /
trap '' INT TERM HUP QUIT
# Taken out of the arguments, which `set` replaces below.
mark=$1
running=
coming=0
while read -r sign group start; do
    case $sign in
        '?') coming=$((coming + 1)) ;;
        '!') coming=$((coming - 1)) ;;
        +)
            running="$running $group:$start"
            coming=$((coming - 1))
            ;;
        -)
            kept=
            for one in $running; do [ "${one%%:*}" = "$group" ] || kept="$kept $one"; done
            running=$kept
            ;;
    esac
done
for one in $running; do
    group=${one%%:*}
    # A group keeps its number from being given to others, even when its leader is gone.
    if read -r stat <"/proc/$group/stat"; then
        set -- ${stat##*) }
        [ "${20}" = "${one#*:}" ] || continue
    fi
    kill -s KILL -- "-$group"
done
# The environment of a program is its own only once it has been executed: look again for a while.
tries=0
while [ "$coming" -gt 0 ] && [ "$tries" -lt 20 ]; do
    tries=$((tries + 1))
    for environ in $(grep -lsF -e "$mark" /proc/[0-9]*/environ); do
        group=${environ#/proc/}
        group=${group%/environ}
        # To the group 1, kill would mean everybody.
        [ "$group" -gt 1 ] && kill -s KILL -- "-$group" && coming=$((coming - 1))
    done
    sleep 0.1
done
"""


class Guard:
    """The guard of this process; a forked process gets its own."""

    def __init__(self) -> None:
        self.pid = 0
        """The shell's process ID; 0 until there is one."""
        self._owner = 0
        self._pipe = -1
        self._lock = threading.Lock()
        self._mark = ""

    def starting(self) -> dict[str, str]:
        """Announce a start; return the variable that the program's environment needs. `started` or `failed` must follow."""
        self._tell("? 0 0\n")
        return {_VARIABLE: self._mark}

    def failed(self) -> None:
        """Note that the announced program could not be started."""
        self._tell("! 0 0\n")

    def started(self, group: int) -> None:
        """Note that a program leads a process group of its own, which must end with us."""
        try:
            start = Path(f"/proc/{group}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        except OSError:  # it has ended already
            self.failed()
            return
        self._tell(f"+ {group} {start}\n")

    def ended(self, group: int) -> None:
        """Note that the program has ended, or was killed with its group."""
        if self._owner == os.getpid():
            self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._owner != os.getpid():
                self._begin()
            try:
                os.write(self._pipe, line.encode())
            except OSError:  # somebody has killed it, and its list is lost
                self._owner = 0

    def _begin(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)  # it belongs to our parent, or to a guard that is gone
        out, self._pipe = os.pipe()
        self._mark = secrets.token_hex(16)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.pid = os.posix_spawn(
                "/bin/sh",
                ("sh", "-c", _SCRIPT, "guard", f"{_VARIABLE}={self._mark}"),
                {"PATH": os.defpath},
                file_actions=[(os.POSIX_SPAWN_DUP2, own, number) for own, number in ((out, 0), (null, 1), (null, 2))],
                setsid=True,
            )
        finally:
            os.close(out)
            os.close(null)
        self._owner = os.getpid()


GUARD = Guard()
