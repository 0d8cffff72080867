# SPDX-License-Identifier: Apache-2.0
"""The acceptance list as a page: one file of HTML that needs no other, with the state, reasons and tests of each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from pipeline.cli.qa import AcceptanceRow, count_states

_TITLE: Final = "TowerOS: acceptance list"
_STYLE: Final = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3em .6em; border-bottom: 1px solid #ddd }
td.state { font-weight: bold; white-space: nowrap }
.passed { color: #0a6b2d } .simulated { color: #0b57a4 } .failed { color: #b00020 }
.skipped, .not-run, .not-automated { color: #6b6b6b }
details { color: #555; font-size: .9em } code { overflow-wrap: anywhere }
"""


def _class_of(state: str) -> str:
    return state.replace(" ", "-")


def _row(row: AcceptanceRow) -> Iterator[str]:
    yield f'<tr id="{row.number}"><td>{row.number}</td><td class="state {_class_of(row.state)}">{row.state}</td><td>'
    yield escape(row.what)
    for reason in row.reasons:
        yield f"<br/><em>because {escape(reason)}</em>"
    if row.outcomes:
        yield f"<details><summary>tests: {len(row.outcomes)}</summary><ul>"
        for test, outcome in sorted(row.outcomes.items()):
            note = f", simulated: {escape(row.simulated[test])}" if test in row.simulated else ""
            yield f"<li><code>{escape(test)}</code>: {escape(outcome)}{note}</li>"
        yield "</ul></details>"
    yield "</td></tr>\n"


def page_of(rows: Sequence[AcceptanceRow]) -> str:
    """Return the page of all rows, in their order, headed by the number of rows in each state."""
    counts = ", ".join(
        f'<span class="{_class_of(state)}">{number} {state}</span>' for state, number in count_states(rows).items() if number
    )
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title><style>{_STYLE}</style></head>\n'
    table = "<table><tr><th>row</th><th>state</th><th>what</th></tr>\n"
    parts = (part for row in rows for part in _row(row))
    return f"{head}<body><h1>{_TITLE}</h1><p>{len(rows)} rows: {counts}</p>\n{table}{''.join(parts)}</table></body></html>\n"
