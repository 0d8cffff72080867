# SPDX-License-Identifier: Apache-2.0
"""The checks of an audit. A silence counts only if the same question was answered elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

THINCLIENT: Final = "thinclient"
INTERNET: Final = "internet"


class Verdict(StrEnum):
    """The result of a check."""

    HELD = "held"
    BROKEN = "broken"
    NOT_TRIED = "not tried"


_ORDER: Final = (Verdict.BROKEN, Verdict.NOT_TRIED, Verdict.HELD)


@dataclass(frozen=True, slots=True)
class Check:
    """A property that must hold."""

    about: str
    """Its subject, in one word: way, firewall, ssh, names ..."""
    source: str
    """The machine that it is about, or that tries."""
    target: str
    """The machine that is tried; empty if it is about one machine alone."""
    outcome: Verdict
    detail: str = ""


def worst(outcomes: Sequence[Verdict]) -> Verdict:
    """Return the worst of several results; not tried if there are none."""
    return min(outcomes, key=_ORDER.index, default=Verdict.NOT_TRIED)


def judged(about: str, source: str, faults: Sequence[str], *, target: str = "", well: str = "") -> Check:
    """Return a check that was tried: broken if there are faults."""
    outcome = Verdict.BROKEN if faults else Verdict.HELD
    return Check(about, source, target, outcome, "; ".join(dict.fromkeys(faults)) or well)


def not_tried(about: str, source: str, why: str, *, target: str = "") -> Check:
    """Return a check that could not be made."""
    return Check(about, source, target, Verdict.NOT_TRIED, why)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All checks of an audit."""

    machines: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Verdict:
        """The worst outcome of all checks."""
        return worst([check.outcome for check in self.checks])

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON data."""
        return {
            "outcome": self.outcome.value,
            "machines": list(self.machines),
            "checks": [asdict(check) for check in self.checks],
        }
