# SPDX-License-Identifier: Apache-2.0
"""Make a plan from the channel, the stages and the recipes.

Everything that can be checked without a lock is checked here, at load: unknown stages, missing inputs,
names used twice, cycles. `pipeline.plan.keys` computes the keys later.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.apk.format.pkginfo import NOARCH
from pipeline.base.errors import ConfigError
from pipeline.base.paths import Paths
from pipeline.config.channel import Channel
from pipeline.config.recipe import COMMON, PER_ARCH, InputSource, Recipe, SourceKind, StageUse, Target, load_recipes
from pipeline.config.stage import OptionValue, StageSpec, load_stages
from pipeline.config.toml import Problems, Table, read_toml
from pipeline.plan.nodes import SUFFIXES, ChannelNode, Image, Node, Plan, Settings, StageNode, node_name


def load_plan(paths: Paths, settings: Settings) -> Plan:
    """Read the channel, the stages and the recipes, and combine them into a plan.

    Raises a ConfigError that lists every mistake of every file.
    """
    problems = Problems()
    channel = load_channel(paths, settings.channel, problems)
    if settings.apk_format:
        channel = replace(channel, settings={**channel.settings, "apk_format": settings.apk_format})
    specs = load_stages(paths.stages, problems)
    recipes = load_recipes(paths.recipes, specs, problems)
    problems.check("the configuration of the factory")
    version = project_version(paths.checkout)
    plan = _Planner(channel=channel, settings=settings, version=version, specs=specs, recipes=recipes, problems=problems).plan()
    problems.check("the configuration of the factory")
    return plan


def project_version(checkout: Path) -> str:
    """Return the version in pyproject.toml, which the images and the `tower` wheel have as well. Raises ConfigError."""
    path = checkout / "pyproject.toml"
    try:
        return str(tomllib.loads(read_regular(path).decode())["project"]["version"])
    except (OSError, KeyError, TypeError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name}: project.version cannot be read: {error}") from error


def load_channel(paths: Paths, name: str, problems: Problems) -> Channel:
    """Read pipeline/channels/<name>.toml. Raises ConfigError if there is no such channel."""
    known = sorted(path.stem for path in paths.channels.glob("*.toml"))
    if name not in known:
        raise ConfigError(f"channel={name}: there is no such channel", hint=f"known channels: {', '.join(known) or 'none'}")
    path = paths.channels / f"{name}.toml"
    table = read_toml(path, problems, shown=f"pipeline/channels/{name}.toml")
    settings = table.raw("settings")
    architectures = table.strings("architectures")
    branch = table.text("branch")
    engines, native = table.mapping("engines"), table.strings("native_builders", ())
    for key, names in (("engines", engines), ("native_builders", native)):
        for arch in sorted(set(names) - set(architectures)):
            table.problem(key, f"{arch!r} is not one of the architectures: {', '.join(architectures)}")
    channel = Channel(
        name=name,
        driver=table.text("driver"),
        summary=table.text("summary"),
        branch=branch,
        epoch=table.integer("epoch"),
        architectures=architectures,
        builder_arch=table.text("builder_arch"),
        releasable=table.boolean("releasable"),
        settings=settings if isinstance(settings, dict) else {},
        path=path,
        native_builders=native,
        engines=engines,
        device_repositories=_device_repositories(table, branch),
        faketime=table.text("faketime", ""),
    )
    if settings is not None and not isinstance(settings, dict):
        table.problem("settings", "must be a table")
    table.close()
    return channel


def _device_repositories(table: Table, branch: str) -> tuple[str, ...]:
    """Return the addresses; note those that are none, or of another branch than the channel's."""
    lines = table.strings("device_repositories", ())
    for line in lines:
        if re.fullmatch(r"https?://[A-Za-z0-9.:-]+(/[A-Za-z0-9._-]+)+", line) is None or f"/{branch}/" not in line:
            table.problem("device_repositories", f"{line!r} is not the address of a repository of branch {branch}")
    return lines


class _Planner:
    """Turns recipes into nodes; used once."""

    def __init__(
        self,
        *,
        channel: Channel,
        settings: Settings,
        version: str,
        specs: Mapping[str, StageSpec],
        recipes: Sequence[Recipe],
        problems: Problems,
    ) -> None:
        self.channel = channel
        self.settings = settings
        self.version = version
        self.specs = specs
        self.recipes = recipes
        self.problems = problems
        self.owners: dict[str, tuple[Recipe, StageUse]] = {}
        self.common_worlds = {name: world for recipe in recipes if recipe.name == COMMON for name, world in recipe.worlds.items()}
        self.worlds: dict[str, set[str]] = {}
        self.stage_worlds: dict[str, dict[frozenset[str], None]] = {}
        self.wanted: set[str] = set()  # of the stage that is being read
        self.used_worlds: set[str] = set()
        self.nodes: dict[str, Node] = {}

    def plan(self) -> Plan:
        """Return the plan; mistakes are noted in `problems`."""
        if self.settings.compress not in SUFFIXES:
            raise ConfigError(f"compress={self.settings.compress}: unknown", hint=f"one of: {', '.join(SUFFIXES)}")
        for recipe in self.recipes:
            for use in recipe.stages:
                other = self.owners.setdefault(use.name, (recipe, use))[1]
                if other is not use and other.where != use.where:
                    self.problems.add(use.where, f"the name {use.name!r} is taken by {other.where}")
        for recipe in self.recipes:
            for use in recipe.stages:
                for target in recipe.targets.values() if use.per_target else (None,):
                    node = self._node(recipe, use, target)
                    self.nodes[node.name] = node
        self._unused_worlds()
        ordered = self._ordered()
        return Plan(
            channel=self.channel,
            settings=self.settings,
            version=self.version,
            nodes={name: self.nodes[name] for name in ordered},
            images=tuple(self._images()),
            worlds={arch: frozenset(names) for arch, names in sorted(self.worlds.items())},
            stage_worlds={arch: tuple(found) for arch, found in sorted(self.stage_worlds.items())},
        )

    def _node(self, recipe: Recipe, use: StageUse, target: Target | None) -> StageNode:
        spec = self.specs[use.use]
        arch = self._arch(recipe, use, target)
        inputs: dict[str, str] = {}
        for name, source in sorted(use.inputs.items()):
            found = self._source(source, target, arch, f"{use.where}.inputs.{name}")
            if found:
                inputs[name] = found
        given = {**use.options, **(use.target_options.get(target.name, {}) if target else {})}
        self.wanted = set()
        options = {
            option.name: self._value(recipe, given.get(option.name, option.default), arch, f"{use.where}.options.{option.name}")
            for option in spec.options.values()
        }
        if spec.locked and (arch == NOARCH or not self.wanted):
            self.problems.add(use.where, f"stages/{spec.name} installs what the lock chose: it needs an architecture and a world")
        for one in self._architectures(arch) if self.wanted else ():
            self.stage_worlds.setdefault(one, {})[frozenset(self.wanted)] = None
        return StageNode(
            use.name, spec, recipe.name, target.name if target else "", arch, options, inputs, frozenset(self.wanted)
        )

    def _arch(self, recipe: Recipe, use: StageUse, target: Target | None) -> str:
        if target is None and not use.arch:
            return next(iter(recipe.targets.values())).arch if len(recipe.targets) == 1 else NOARCH
        arch = use.arch or (target.arch if target else NOARCH)
        if arch not in (*self.channel.architectures, NOARCH):
            known = ", ".join(self.channel.architectures)
            self.problems.add(use.where, f"architecture {arch!r} is not one of channel {self.channel.name}: {known}")
        return arch

    def _source(self, source: InputSource, target: Target | None, arch: str, where: str) -> str:
        if source.kind is SourceKind.CHANNEL:
            if source.name in PER_ARCH and arch == NOARCH:
                self.problems.add(where, f"{source} is one for each architecture: give the stage `arch` or `per_target = true`")
                return ""
            node = ChannelNode(source.name, arch if source.name in PER_ARCH else "")
            self.nodes.setdefault(node.name, node)
            return node.name
        if source.name not in self.owners:
            self.problems.add(where, f"no stage is called {source.name!r}")
            return ""
        recipe, wanted = self.owners[source.name]
        if not wanted.per_target:
            if source.target:
                self.problems.add(where, f"{source}: {source.name!r} is one for all targets; leave @{source.target} out")
            return node_name(source.name)
        chosen = source.target or (target.name if target and target.name in recipe.targets else "")
        if chosen not in recipe.targets:
            choices = ", ".join(f"stage:{source.name}@{name}" for name in recipe.targets)
            self.problems.add(where, f"{source}: say for which target: {choices}")
            return ""
        return node_name(source.name, chosen)

    def _value(self, recipe: Recipe, value: OptionValue, arch: str, where: str) -> OptionValue:
        if value == "@compress":
            return self.settings.compress
        if value == "@releasable":
            return "yes" if self.channel.releasable else "no"
        if not isinstance(value, tuple):
            return value
        items: list[str] = []
        for item in value:
            if item == "@repositories":
                items.extend(self.channel.device_repositories)
                continue
            if not item.startswith("@world:"):
                items.append(item)
                continue
            name = item.removeprefix("@world:")
            world = recipe.worlds.get(name, self.common_worlds.get(name))
            if world is None:
                self.problems.add(where, f"there is no world {name!r} in {recipe.name}.toml or {COMMON}.toml")
                continue
            self.used_worlds.add(name)
            items.extend(world)
            self.wanted.update(world)
            for one in self._architectures(arch):
                self.worlds.setdefault(one, set()).update(world)
        return tuple(dict.fromkeys(items))

    def _architectures(self, arch: str) -> tuple[str, ...]:
        return self.channel.architectures if arch == NOARCH else (arch,)

    def _unused_worlds(self) -> None:
        for recipe in self.recipes:
            for name in recipe.worlds:
                if name not in self.used_worlds:
                    self.problems.add(f"{recipe.where}: worlds.{name}", "no stage uses this world")

    def _ordered(self) -> list[str]:
        """Return the names of all nodes, depth first, so that related nodes are built one after the other; note a cycle."""
        ordered: dict[str, None] = {}
        path: list[str] = []

        def visit(name: str) -> None:
            if name in ordered or name not in self.nodes:
                return
            if name in path:
                ring = [*path[path.index(name) :], name]
                self.problems.add("pipeline/recipes", "these stages need each other in a ring: " + " -> ".join(ring))
                return
            path.append(name)
            node = self.nodes[name]
            for needed in node.inputs.values() if isinstance(node, StageNode) else ():
                visit(needed)
            path.pop()
            ordered[name] = None

        for name in self.nodes:
            visit(name)
        return list(ordered)

    def _images(self) -> Iterable[Image]:
        suffix = SUFFIXES[self.settings.compress]
        for recipe in self.recipes:
            use = self.owners[recipe.final][1] if recipe.final in self.owners else None
            for target in recipe.targets.values():
                output = target.output.format(version=self.version, channel=self.channel.name, suffix=suffix)
                name = node_name(recipe.final, target.name if use is not None and use.per_target else "")
                yield Image(recipe.name, target.name, target.arch, name, output)
