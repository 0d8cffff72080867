# SPDX-License-Identifier: Apache-2.0
"""Recipes: which stages make an image, with which options and inputs, for which targets.

Reads pipeline/recipes/*.toml and checks each file for itself; `pipeline.plan.planner` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pipeline.config.stage import OptionValue, StageSpec, check_option
from pipeline.config.toml import Problems, Table, read_toml

COMMON = "common"
"""The name of the recipe without an image, whose stages several recipes need."""

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_OUTPUT_FIELDS = {"version", "channel", "suffix"}


class SourceKind(StrEnum):
    """Where an input comes from."""

    STAGE = "stage"
    CHANNEL = "channel"


CHANNEL_INPUTS = ("repository", "keys", "aports", "wheels")
PER_ARCH = ("repository", "wheels")


@dataclass(frozen=True, slots=True)
class InputSource:
    """`stage:<name>[@<target>]` or `channel:<what>`."""

    kind: SourceKind
    name: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"@{self.target}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Target:
    """One machine that an image is made for."""

    name: str
    arch: str
    output: str
    """Name of the finished image, with {version}, {channel} and {suffix} (of the compression)."""


@dataclass(frozen=True, slots=True)
class StageUse:
    """One `[[stages]]` of a recipe: a stage with its options and inputs."""

    name: str
    use: str
    per_target: bool
    arch: str
    options: Mapping[str, OptionValue]
    target_options: Mapping[str, Mapping[str, OptionValue]]
    inputs: Mapping[str, InputSource]
    where: str
    """File and key, for messages."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One file of pipeline/recipes/."""

    name: str
    summary: str
    targets: Mapping[str, Target]
    stages: tuple[StageUse, ...]
    final: str
    worlds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: str = ""


def load_recipes(folder: Path, specs: Mapping[str, StageSpec], problems: Problems) -> tuple[Recipe, ...]:
    """Read all recipes: common.toml first, then by name."""
    files = sorted(folder.glob("*.toml"), key=lambda path: (path.stem != COMMON, path.stem))
    return tuple(load_recipe(path, specs, problems) for path in files)


def load_recipe(path: Path, specs: Mapping[str, StageSpec], problems: Problems) -> Recipe:
    """Read one recipe, and note mistakes in `problems`."""
    table = read_toml(path, problems, shown=f"pipeline/recipes/{path.name}")
    common = path.stem == COMMON
    name = path.stem
    if not common and table.text("image") not in (name, ""):
        table.problem("image", f"must be {name!r}, the name of the file")
    targets = _targets(table.table("targets"))
    if not common and not targets:
        table.problem("targets", "missing: an image needs at least one target")
    worlds_table = table.table("worlds")
    worlds = {world: worlds_table.strings(world) for world in worlds_table}
    stages = tuple(_stage_use(row, specs, targets) for row in table.tables("stages"))
    for twice in sorted({use.name for use in stages if [other.name for other in stages].count(use.name) > 1}):
        table.problem("stages", f"two stages are called {twice!r}")
    final = "" if common else table.text("final")
    if final and final not in {use.name for use in stages}:
        table.problem("final", f"no stage of this recipe is called {final!r}")
    recipe = Recipe(name, table.text("summary", ""), targets, stages, final, worlds, table.where())
    table.close()
    return recipe


def _targets(table: Table) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for name in table:
        row = table.table(name)
        target = Target(name, row.text("arch"), row.text("output"))
        fields = set(re.findall(r"\{(.*?)\}", target.output))
        for unknown in sorted(fields - _OUTPUT_FIELDS):
            row.problem("output", f"unknown field {{{unknown}}}; known: {', '.join(sorted(_OUTPUT_FIELDS))}")
        if "/" in target.output:
            row.problem("output", "must be a file name, not a path")
        _check_name(row, "", name)
        targets[name] = target
    return targets


def _check_name(table: Table, key: str, name: str) -> None:
    if name and not _NAME.fullmatch(name):
        table.problem(key, f"{name!r}: a name is lower-case letters, digits and single dashes")


def _stage_use(row: Table, specs: Mapping[str, StageSpec], targets: Mapping[str, Target]) -> StageUse:
    name = row.text("name")
    _check_name(row, "name", name)
    use = row.text("use", name)
    spec = specs.get(use)
    if spec is None and use:
        row.problem("use" if "use" in row else "name", f"there is no stage stages/{use}")
    options = _options(row.table("options"), spec)
    by_target = row.table("target_options")
    target_options = {target: _options(by_target.table(target), spec) for target in by_target}
    for target in sorted(set(target_options) - set(targets)):
        by_target.problem(target, "the recipe has no such target")
    per_target = row.boolean("per_target", False)
    if target_options and not per_target:
        row.problem("target_options", "only a stage with per_target = true has options by target")
    if per_target and not targets:
        row.problem("per_target", "the recipe has no targets")
    if spec is not None:
        _check_required(row, spec, options, target_options, targets if per_target else {})
    return StageUse(
        name=name,
        use=use,
        per_target=per_target,
        arch=row.text("arch", ""),
        options=options,
        target_options=target_options,
        inputs=_inputs(row, spec),
        where=row.where(),
    )


def _check_required(
    row: Table,
    spec: StageSpec,
    options: Mapping[str, OptionValue],
    target_options: Mapping[str, Mapping[str, OptionValue]],
    targets: Mapping[str, Target],
) -> None:
    for option in spec.options.values():
        if option.required and option.name not in options:
            without = [target for target in targets if option.name not in target_options.get(target, {})]
            if without or not targets:
                row.problem(
                    f"options.{option.name}",
                    f"missing: stages/{spec.name} asks for it ({option.help or option.type})",
                )


def _options(table: Table, spec: StageSpec | None) -> dict[str, OptionValue]:
    options: dict[str, OptionValue] = {}
    for name in table:
        value = table.raw(name)
        if spec is None:
            continue
        if name not in spec.options:
            known = ", ".join(sorted(spec.options)) or "none"
            table.problem(name, f"stages/{spec.name} has no such option; it has: {known}")
            continue
        checked = check_option(value, spec.options[name].type, table, name)
        if checked is not None:
            options[name] = checked
    return options


def _inputs(row: Table, spec: StageSpec | None) -> dict[str, InputSource]:
    given = row.mapping("inputs")
    inputs: dict[str, InputSource] = {}
    for name, text in given.items():
        source = _input_source(text)
        if source is None:
            choices = ", ".join(f"channel:{what}" for what in CHANNEL_INPUTS)
            row.problem(f"inputs.{name}", f"{text!r} is none of stage:<name>, stage:<name>@<target>, {choices}")
        else:
            inputs[name] = source
        if spec is not None and name not in spec.inputs + spec.optional_inputs:
            row.problem(f"inputs.{name}", f"stages/{spec.name} has no such input; it has: {', '.join(spec.inputs) or 'none'}")
    for name in spec.inputs if spec is not None else ():
        if name not in given:
            row.problem(f"inputs.{name}", f"missing: stages/{spec.name if spec else ''} needs it")
    return inputs


def _input_source(text: str) -> InputSource | None:
    kind, _, rest = text.partition(":")
    name, at, target = rest.partition("@")
    if kind == SourceKind.STAGE and name and bool(at) == bool(target):
        return InputSource(SourceKind.STAGE, name, target)
    if kind == SourceKind.CHANNEL and rest in CHANNEL_INPUTS:
        return InputSource(SourceKind.CHANNEL, rest)
    return None
