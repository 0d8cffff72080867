# SPDX-License-Identifier: Apache-2.0
"""Show an audit to people: who reaches whom, what holds on each machine, and what does not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from tower.audit.checks import AuditReport, Verdict, worst

if TYPE_CHECKING:
    from rich.table import Table

_WORDS: Final = {
    Verdict.HELD: ("ok", "green"),
    Verdict.BROKEN: ("NO", "bold red"),
    Verdict.NOT_TRIED: ("?", "yellow"),
}


def show(report: AuditReport) -> None:
    """Print two tables and the details on stdout."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for table in (_ways(report), _machines(report)):
        console.print(table)
    console.print("ok: held, NO: broken, ?: not tried, -: nothing to try")
    for check in report.checks:
        if check.outcome is not Verdict.HELD:
            where = f"{check.source} -> {check.target}" if check.target else check.source
            console.print(f"[{_WORDS[check.outcome][1]}]{check.outcome.value}[/]", end=" ")
            console.print(f"{where}: {check.about}: {check.detail}", markup=False)
    counts = {outcome: sum(check.outcome is outcome for check in report.checks) for outcome in Verdict}
    console.print(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items()))


def _ways(report: AuditReport) -> object:
    table = _table("Ways, from the left to the top", report)
    for number, source in enumerate(report.machines[:-1], start=1):
        table.add_row(f"{number} {source}", *(_cell(report, "way", source, target) for target in report.machines))
    table.add_row(f"{len(report.machines)} {report.machines[-1]}", *("-" for _ in report.machines))
    return table


def _machines(report: AuditReport) -> object:
    table = _table("Each machine", report)
    for about in dict.fromkeys(check.about for check in report.checks if check.about != "way"):
        table.add_row(about, *(_cell(report, about, source) for source in report.machines))
    return table


def _table(title: str, report: AuditReport) -> Table:
    """Return a table with a column for each machine, by its number: there is space for twenty."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("", no_wrap=True)
    for number in range(1, len(report.machines) + 1):
        made.add_column(str(number), no_wrap=True)
    return made


def _cell(report: AuditReport, about: str, source: str, target: str | None = None) -> str:
    found = [
        check.outcome
        for check in report.checks
        if (check.about, check.source) == (about, source) and target in (None, check.target)
    ]
    if not found:
        return "-"
    word, style = _WORDS[worst(found)]
    return f"[{style}]{word}[/]"
