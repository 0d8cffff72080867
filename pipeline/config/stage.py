# SPDX-License-Identifier: Apache-2.0
"""Stages: what stages/<name>/stage.toml declares about the script beside it.

A stage is a pure function from options, inputs and sources to outputs; recipes say with which of them it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.toml import Problems, Table, read_toml

LIBRARY = "lib"
"""The folder below stages/ for code that the scripts share; it is not a stage."""

OPTION_TYPES = ("string", "strings", "integer", "boolean", "table")
SECRETS = ("signing-key",)
BASE_OPTIONS = ("arch", "branch", "channel", "epoch", "locked", "signing_key_name", "target", "version")
"""Options that every script is given; no option of a stage may have these names."""

OptionValue = str | int | bool | tuple[str, ...] | Mapping[str, str]
_EMPTY: Mapping[str, OptionValue] = {"string": "", "strings": (), "integer": 0, "boolean": False, "table": {}}


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option that recipes may set."""

    name: str
    type: str
    default: OptionValue
    required: bool
    help: str


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One folder below stages/."""

    name: str
    folder: Path
    summary: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    capabilities: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    locked: bool = False
    """Whether the script is given the packages that the lock chose for the stage's world."""
    timeout: int = 900
    options: Mapping[str, OptionSpec] = field(default_factory=dict)


def load_stages(folder: Path, problems: Problems) -> dict[str, StageSpec]:
    """Read all stages below `folder`; return them by name."""
    found: dict[str, StageSpec] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and path.name not in (LIBRARY, "__pycache__") and not path.name.startswith("."):
            found[path.name] = load_stage(path, problems)
    return found


def load_stage(folder: Path, problems: Problems) -> StageSpec:
    """Read one stage.toml, and note mistakes in `problems`."""
    table = read_toml(folder / "stage.toml", problems, shown=f"stages/{folder.name}/stage.toml")
    spec = StageSpec(
        name=folder.name,
        folder=folder,
        summary=table.text("summary"),
        command=table.strings("command"),
        outputs=table.strings("outputs"),
        capabilities=table.strings("capabilities", ()),
        inputs=table.strings("inputs", ()),
        optional_inputs=table.strings("optional_inputs", ()),
        sources=table.strings("sources", ()),
        secrets=table.strings("secrets", ()),
        locked=table.boolean("locked", False),
        timeout=table.integer("timeout", 900),
        options=_options(table.table("options")),
    )
    _check(spec, table)
    table.close()
    return spec


def _check(spec: StageSpec, table: Table) -> None:
    for key, values in (("command", spec.command), ("outputs", spec.outputs)):
        if key in table and not values:
            table.problem(key, "must not be empty")
    for key, values in (("inputs", spec.inputs + spec.optional_inputs), ("outputs", spec.outputs), ("sources", spec.sources)):
        for twice in sorted({value for value in values if values.count(value) > 1}):
            table.problem(key, f"{twice!r} is named twice")
    for key, values in (("outputs", spec.outputs), ("sources", spec.sources)):
        for value in values:
            if value.startswith("/") or ".." in Path(value).parts:
                table.problem(key, f"{value!r} must be a path inside the {'output' if key == 'outputs' else 'checkout'}")
    for source in spec.sources:
        if not (spec.folder.parent.parent / source).exists():
            table.problem("sources", f"{source}: no such file or folder in the checkout")
    for secret in spec.secrets:
        if secret not in SECRETS:
            table.problem("secrets", f"{secret!r} is unknown; known: {', '.join(SECRETS)}")
    if spec.timeout <= 0:
        table.problem("timeout", "must be more than 0 seconds")


def _options(table: Table) -> dict[str, OptionSpec]:
    options: dict[str, OptionSpec] = {}
    for name in table:
        row = table.table(name)
        kind = row.choice("type", OPTION_TYPES)
        required = "default" not in row
        default = check_option(row.raw("default"), kind, row, "default") if not required else None
        if name in BASE_OPTIONS:
            table.problem(name, "every stage is given this option; choose another name")
        options[name] = OptionSpec(
            name, kind, _EMPTY.get(kind, "") if default is None else default, required, row.text("help", "")
        )
    return options


def check_option(value: Any, kind: str, table: Table, key: str) -> OptionValue | None:
    """Return `value` as a frozen option of type `kind`; note a problem and return None if it has another type."""
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "integer" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "strings" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind == "table" and isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return dict(value)
    if kind in OPTION_TYPES:
        wanted = {"strings": "a list of strings", "table": "a table of strings", "string": "a string"}.get(kind, kind)
        table.problem(key, f"must be {wanted}, not {value!r}")
    return None
