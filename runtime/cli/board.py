# SPDX-License-Identifier: Apache-2.0
"""The table of `tower status` for people: a row for each host, in its colour. Only this module imports rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tower.base.names import HostName
from tower.hosts.registry import Host
from tower.status.status import State, Status

_COLUMNS: Final = ("host", "network", "state", "version", "packages", "up for", "load", "memory", "disk", "temperature")
_SPARE: Final = ("network", "packages")
"""Columns that a narrow terminal does not show; `tower status --json` has them."""
_WIDE: Final = 110
"""The least columns of a wide terminal."""
_STYLES: Final = {State.UP: "green", State.DOWN: "red", State.STRANGE: "bold red"}
_FULL: Final = 0.9
"""The part of memory or disk from which on it is coloured."""
_HOT: Final = 80.0
"""Degrees Celsius from which on a Raspberry Pi slows down."""


def table(hosts: Iterable[Host], found: Mapping[HostName, Status], *, width: int) -> Table:
    """Return the table of all hosts, with their state so far, for a terminal of this width."""
    wide = width >= _WIDE
    made = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        if wide or name not in _SPARE:
            made.add_column(name, overflow="fold", no_wrap=name != "host")
    for host in hosts:
        cells = _row(host, found.get(host.name), wide=wide)
        made.add_row(*(cells[name] for name in _COLUMNS if name in cells and (wide or name not in _SPARE)))
    reasons = [status for host in hosts if (status := found.get(host.name)) is not None and status.reason]
    made.caption = Text("\n").join(Text(f"{one.host.name}: {one.reason}") for one in reasons) if reasons else None
    made.caption_justify = "left"
    return made


@contextmanager
def live(console: Console) -> Iterator[Callable[[Table], None]]:
    """Yield a function that shows a table in the place of the last one."""
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as shown:
        yield lambda made: shown.update(made, refresh=True)


def console(width: int | None = None) -> Console:
    """Return a console of rich for stdout, or of the given width."""
    return Console(highlight=False, width=width)


def _row(host: Host, status: Status | None, *, wide: bool) -> dict[str, Text]:
    """Return the cells of a host. They are Texts, not marked-up strings, so that a host's words are never read as styles."""
    kind = "router" if host.env.is_router else host.env.network.name
    state = Text("asked ...", style="dim") if status is None else Text(status.state.value, style=_STYLES[status.state])
    cells = {"host": Text(host.name, style=host.env.color), "network": Text(kind), "state": state}
    report = None if status is None else status.report
    if report is None:
        return cells
    warm = report.temperature
    return {
        **cells,
        "version": Text(report.version or "-"),
        "packages": Text("-" if report.packages is None else str(report.packages)),
        "up for": Text(duration(report.uptime)),
        "load": Text(f"{report.load:.2f}"),
        "memory": _used(report.memory_used, report.memory, wide=wide),
        "disk": _used(report.disk_used, report.disk, wide=wide),
        "temperature": Text("-") if warm is None else Text(f"{warm:.0f} °C", style="red" if warm >= _HOT else ""),
    }


def _used(used: int, total: int, *, wide: bool) -> Text:
    part = used / total if total else 0.0
    return Text(f"{part:.0%} of {_size(total)}" if wide else f"{part:.0%}", style="red" if part >= _FULL else "")


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
