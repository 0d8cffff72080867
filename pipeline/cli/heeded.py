# SPDX-License-Identifier: Apache-2.0
"""Which variables of the command line each task reads; a variable that no chosen task would read is refused.

`apk-format=`, `channel=`, `compress=`, `engine.<architecture>=` and `json=` choose the plan and the form of the output, so
every task reads them, except the tasks without a plan, which are in `_WITHOUT_PLAN`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.base.errors import ConfigError
from pipeline.plan.nodes import Plan

_ENGINE: Final = "engine."
_PLAN: Final = frozenset({"apk-format", "channel", "compress", "json"})
_BUILD: Final = frozenset({"cache", "cache-key", "clock"})
_SECRET: Final = frozenset({"key", "passphrase"})
_WITHOUT_PLAN: Final = frozenset({"qa", "test"})
_COMMANDS: Final[Mapping[str, frozenset[str]]] = {
    "_sim-possible": frozenset({"machines"}),
    "attest": _SECRET | {"dir"},
    "audit:elf": frozenset({"target"}),
    "audit:lock": _BUILD | {"target"},
    "builder": frozenset(),
    "cache:push": _SECRET | {"cache", "cache-push"},
    "explain": frozenset({"target"}),
    "fetch": frozenset(),
    "gc": frozenset({"size"}),
    "lab:base": frozenset({"dry-run"}),
    "lock": frozenset({"older-index"}),
    "qa": frozenset(),
    "release": _SECRET | {"version"},
    "replay": _BUILD | {"shell", "stage", "target"},
    "sim": _BUILD | {"machines"},
    "sim:screen": frozenset(),
    "sim:ssh": frozenset(),
    "sim:status": frozenset(),
    "sim:stop": frozenset(),
    "test": frozenset(),
    "vault:export": frozenset({"file"}),
    "vault:gc": frozenset({"days"}),
    "vault:import": frozenset({"file"}),
    "verify:release": frozenset({"dir", "key", "need", "rebuilders"}),
    "verify:reproducible": frozenset(),
}
"""The variables of every task that does not build a node of the plan by its name."""


def heeded_by(task: str, plan: Plan) -> frozenset[str]:
    """Return the variables that a task reads: `engine.` for all with this prefix; `target` only if the task has that target."""
    if task in _WITHOUT_PLAN:
        return frozenset({"json"})
    common = _PLAN | {_ENGINE}
    if task in _COMMANDS:
        return common | _COMMANDS[task]
    return common | _BUILD | ({"target"} if plan.settings.target in _targets(task, plan) else set())


def _targets(task: str, plan: Plan) -> set[str]:
    """Return the targets that a task builds or starts; an empty set if it builds the same for all of them."""
    kind, _, rest = task.partition(":")
    if kind == "stage":
        name, _, target = rest.partition(":")
        return {node.target for node in plan.instances(name) if target in ("", node.target)} - {""}
    if kind == "boot":
        from pipeline.images.boot_record import BOOTS

        return {BOOTS[rest][1]} if rest in BOOTS else set()
    return {image.target for image in plan.images if image.recipe == kind and rest in ("", image.target)}


def check_heeded(tasks: Iterable[str], given: Mapping[str, str], plan: Plan) -> None:
    """Raise ConfigError for a variable that none of the chosen tasks reads."""
    chosen = list(tasks)
    heeded = frozenset[str]().union(*(heeded_by(task, plan) for task in chosen))
    for name, value in given.items():
        if name in heeded or (name.startswith(_ENGINE) and _ENGINE in heeded):
            continue
        known = ", ".join(f"{one}ARCHITECTURE=" if one == _ENGINE else f"{one}=" for one in sorted(heeded))
        raise ConfigError(f"{name}={value}: {' '.join(chosen)} would ignore it", hint=f"leave it out; read here: {known}")
