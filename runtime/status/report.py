# SPDX-License-Identifier: Apache-2.0
"""A host's report for `tower status`: the question, and the strict parser of the answer.

The question is a constant that is sent with each connection; so a host needs only its shell, and a newer `tower` can ask
an older host. Each line of standard input is one question, so that an open connection can be asked again. A host may be
compromised: its answer is bounded, every line must have its form, and only printable text is ever shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tower.base.errors import AnswerError

MOST: Final = 4 << 10
"""The most bytes of an answer; a real one has a few hundred."""
_MOST_VALUE: Final = 100
_FIRST: Final = "tower-status 1"
_LAST: Final = "end"
# Shell builtins where possible: starting a program takes a small host milliseconds.
QUESTION: Final = f"""\
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec 2>/dev/null
while read -r line; do
echo '{_FIRST}'
read -r value </proc/sys/kernel/random/boot_id && echo "boot $value"
read -r value line </proc/uptime && echo "uptime $value"
read -r value line </proc/loadavg && echo "load $value"
while read -r name value line; do
case $name in MemTotal:) echo "memory $value" ;; MemAvailable:) echo "available $value" ;; esac
done </proc/meminfo
while IFS= read -r line; do
case $line in PRETTY_NAME=*) echo "system ${{line#*=}}" ;; VERSION_ID=*) echo "version ${{line#*=}}" ;; esac
done </etc/os-release
for name in /sys/class/thermal/thermal_zone*/temp; do read -r value <"$name" && echo "temperature $value"; done
[ -r /lib/apk/db/installed ] && echo "packages $(grep -c ^P: /lib/apk/db/installed)"
df -Pk / | {{ read -r line; read -r line value name line && echo "disk $value $name"; }}
echo {_LAST}
done
"""
"""Run by the host's shell. It holds no data of the user or the host."""
_FORMS: Final = {
    "boot": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "uptime": re.compile(r"[0-9]{1,10}\.[0-9]{1,3}"),
    "load": re.compile(r"[0-9]{1,5}\.[0-9]{1,3}"),
    "memory": re.compile(r"[0-9]{1,15}"),
    "available": re.compile(r"[0-9]{1,15}"),
    "disk": re.compile(r"[0-9]{1,15} [0-9]{1,15}"),
    "temperature": re.compile(r"-?[0-9]{1,6}"),
    "packages": re.compile(r"[0-9]{1,6}"),
    "system": re.compile(r"[^\"'\\$`]+"),
    "version": re.compile(r"[A-Za-z0-9._+~-]+"),
}
_NEEDED: Final = ("boot", "uptime", "load", "memory", "available", "disk")
_OFTEN: Final = "temperature"
"""A machine may have several sensors, or none; the hottest counts."""


@dataclass(frozen=True, slots=True)
class HostReport:
    """A host's answer; sizes are in bytes."""

    boot: str
    """The kernel's ID of this start of the machine: another one after each restart."""
    uptime: float
    """Seconds."""
    load: float
    """The average over a minute."""
    memory: int
    memory_used: int
    disk: int
    disk_used: int
    temperature: float | None
    """Degrees Celsius; None if there is no sensor."""
    packages: int | None
    """None if there are no packages of Alpine."""
    system: str
    version: str
    """Both are empty if the host does not know."""


def is_whole(data: bytes) -> bool:
    """Tell whether an answer that is coming in is complete."""
    return data.endswith(f"\n{_LAST}\n".encode())


def parse(data: bytes) -> HostReport:
    """Parse a host's answer. Raises AnswerError, which does not show the answer, if it is not valid."""
    values = _values(data)
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise AnswerError(f"its answer lacks {', '.join(missing)}")
    memory, available = int(values["memory"][0]) << 10, int(values["available"][0]) << 10
    disk, used = (int(word) << 10 for word in values["disk"][0].split(" "))
    if available > memory or used > disk:
        raise AnswerError("its answer has more used than there is")
    return HostReport(
        boot=values["boot"][0],
        uptime=float(values["uptime"][0]),
        load=float(values["load"][0]),
        memory=memory,
        memory_used=memory - available,
        disk=disk,
        disk_used=used,
        temperature=max((int(one) / 1000 for one in values.get(_OFTEN, ())), default=None),
        packages=int(values["packages"][0]) if "packages" in values else None,
        system=values.get("system", [""])[0],
        version=values.get("version", [""])[0],
    )


def _values(data: bytes) -> dict[str, list[str]]:
    """Parse the lines: name -> values, each checked for its form."""
    if len(data) > MOST:
        raise AnswerError(f"its answer has more than {MOST} bytes")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise AnswerError("its answer is not text") from None
    if len(lines) < 3 or (lines[0], lines[-2], lines[-1]) != (_FIRST, _LAST, ""):
        raise AnswerError("its answer is not the expected report")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:-2], start=2):
        name, _, value = line.partition(" ")
        if name in ("system", "version"):
            value = _unquoted(value)
        if len(value) > _MOST_VALUE:
            raise AnswerError(f"its answer is not the expected report, in line {number}: more than {_MOST_VALUE} characters")
        form = _FORMS.get(name)
        if form is None or not value.isprintable() or form.fullmatch(value) is None:
            raise AnswerError(f"its answer is not the expected report, in line {number}")
        if name in found and name != _OFTEN:
            raise AnswerError(f"its answer has {name} twice")
        found.setdefault(name, []).append(value)
    return found


def _unquoted(value: str) -> str:
    """Return a value of os-release without its quotes."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
