# SPDX-License-Identifier: Apache-2.0
"""Why a world cannot be had, in the words apk uses: what is missing, what breaks, what conflicts, and who wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.lab.apktool.packages import Package, fits
from pipeline.lab.apktool.solver import State

_WIDTH = 78


def explain(state: State, masked: str = "") -> str:
    """The message for a world that has no solution; `masked` says why known packages may not be chosen."""
    lines = ["unable to select packages:"]
    for name in sorted(state.needs):
        if not state.holders.get(name):
            lines += _missing(state, name, masked)
    for name in sorted(state.chosen):
        lines += _package(state, state.chosen[name])
    return "\n".join(lines)


def _missing(state: State, name: str, masked: str) -> Iterator[str]:
    providers = state.universe.providers(name)
    wanted = [f"{_who(by)}[{dep}]" for dep, by in state.needs[name]]
    if not providers:
        kind = "no such package"
    elif masked and all(not state.policy.selectable(package) for package, _ in providers):
        kind = f"masked in: {masked}"
    else:
        kind = "virtual"
    yield f"  {name} ({kind}):"
    if kind == "virtual":
        yield "    note: please select one of the 'provided by'"
        yield "          packages explicitly"
        yield from _group("provided by", sorted({package.name for package, _ in providers}))
    yield from _group("required by", wanted)


def _who(package: Package | None) -> str:
    return package.full_name if package else "world"


def _package(state: State, package: Package) -> Iterator[str]:
    conflicts: list[str] = []
    breaks: list[str] = []
    satisfies: list[str] = []
    for name, version in package.provided:
        for other, theirs in state.holders.get(name, ()):
            if other is not package and (version or theirs):
                shown = f"{other.full_name}[{name}{'=' + theirs if theirs else ''}]" if name != other.name else other.full_name
                conflicts.append(shown)
        for dep, by in state.needs.get(name, ()):
            (satisfies if fits(dep, package, version) else breaks).append(f"{_who(by)}[{dep}]")
        for dep, by in state.bans.get(name, ()):
            if by is not package and fits(dep, package, version):
                breaks.append(f"{_who(by)}[{dep}]")
    if not conflicts and not breaks:
        return
    yield f"  {package.full_name}:"
    yield from _group("conflicts", conflicts)
    yield from _group("breaks", breaks)
    yield from _group("satisfies", satisfies)


def _group(label: str, items: Sequence[str]) -> Iterator[str]:
    """`label: a b c`, folded under the first item."""
    lead = f"    {label}: "
    line = lead
    for item in dict.fromkeys(items):
        if line.strip() != f"{label}:" and len(line) + len(item) > _WIDTH:
            yield line.rstrip()
            line = " " * len(lead)
        line += f"{item} "
    if line.strip() not in ("", f"{label}:"):
        yield line.rstrip()
