# SPDX-License-Identifier: Apache-2.0
"""The plan: every stage of every recipe for every target, ordered by their inputs. `pipeline.plan.planner` makes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.config.channel import Channel
from pipeline.config.stage import OptionValue, StageSpec

SUFFIXES = {"zstd": ".zst", "xz": ".xz", "none": ""}
"""The values of `compress=`, each with the suffix of the finished image's name."""


@dataclass(frozen=True, slots=True)
class ChannelNode:
    """A node that the channel's driver makes: a repository, wheels, keys, aports."""

    what: str
    arch: str = ""

    @property
    def name(self) -> str:
        """The name in tasks and messages, such as `channel:repository:x86_64`."""
        return f"channel:{self.what}" + (f":{self.arch}" if self.arch else "")


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage as one recipe uses it for one target: an instance."""

    stage: str
    """The name in the recipe."""
    spec: StageSpec
    recipe: str
    target: str
    arch: str
    options: Mapping[str, OptionValue]
    inputs: Mapping[str, str]
    """Input name -> name of the node that makes it."""
    world: frozenset[str] = frozenset()
    """The words of all worlds that its options name."""

    @property
    def name(self) -> str:
        """The name in tasks and messages, such as `stage:host-root:rpi`."""
        return node_name(self.stage, self.target)


Node = ChannelNode | StageNode


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image: the outputs of a recipe's last stage for one target, under its final name."""

    recipe: str
    target: str
    arch: str
    final: str
    """Name of the node that makes it."""
    output: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The choices that the command line's variables make."""

    channel: str = "lab"
    target: str = ""
    compress: str = "zstd"
    engines: Mapping[str, str] = field(default_factory=dict)
    """By architecture: the container engine for its stages, a Docker context or an address."""
    apk_format: int = 0
    """The format of the mirror's packages and indexes, in the place of the one in the channel's file; 0: that one."""

    @property
    def words(self) -> tuple[str, ...]:
        """The variables with which another command line builds the same, without the target."""
        engines = (f"engine.{arch}={name}" for arch, name in sorted(self.engines.items()))
        packages = (f"apk-format={self.apk_format}",) if self.apk_format else ()
        return (f"channel={self.channel}", f"compress={self.compress}", *packages, *engines)


@dataclass(frozen=True, slots=True)
class Plan:
    """All nodes, each after its inputs, and the images that they result in."""

    channel: Channel
    settings: Settings
    version: str
    nodes: Mapping[str, Node]
    images: tuple[Image, ...]
    worlds: Mapping[str, frozenset[str]]
    """By architecture: all packages that any stage may install, for the lock."""
    stage_worlds: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)
    """By architecture: the world of each stage, for a lock that solves them one by one."""

    def needs(self, roots: Iterable[str]) -> tuple[Node, ...]:
        """Return the named nodes and everything that they need, in building order."""
        wanted: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                node = self.nodes[name]
                waiting.extend(node.inputs.values() if isinstance(node, StageNode) else ())
        return tuple(node for name, node in self.nodes.items() if name in wanted)

    def instances(self, stage: str) -> tuple[StageNode, ...]:
        """Return the instances of the stage that recipes call `stage`."""
        return tuple(node for node in self.nodes.values() if isinstance(node, StageNode) and node.stage == stage)

    def engine_of(self, arch: str) -> str:
        """Return the user's name for the engine that stages of an architecture run on; "" for the usual one."""
        return self.settings.engines.get(arch, self.channel.engines.get(arch, ""))

    def builder_arch(self, arch: str) -> str:
        """Return the architecture of the builder for stages of `arch`: `arch` itself if an engine for it is named."""
        native = self.engine_of(arch) and arch in self.channel.native_builders
        return arch if native else self.channel.builder_arch

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages, in building order."""
        return tuple(dict.fromkeys(node.stage for node in self.nodes.values() if isinstance(node, StageNode)))


def node_name(stage: str, target: str = "") -> str:
    """Return the name of a stage's instance."""
    return f"stage:{stage}" + (f":{target}" if target else "")


def is_folder(node: Node) -> bool:
    """Tell whether a node is a folder of the channel that is used as it is, and never built."""
    return isinstance(node, ChannelNode) and node.what == "aports"
