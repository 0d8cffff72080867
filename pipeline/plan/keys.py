# SPDX-License-Identifier: Apache-2.0
"""Keys: the digest of everything that goes into a node, with the document that is digested.

Inputs enter by their content, not by how they were made: if a stage is built again and gives the same bytes, the
stages after it are not built again. So a key is known only when the inputs are built, and is computed late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_json, tree_entries
from pipeline.base.errors import ConfigError
from pipeline.base.paths import Paths
from pipeline.channels.driver import ChannelDriver
from pipeline.config.stage import LIBRARY, OptionValue
from pipeline.plan.nodes import ChannelNode, Node, Plan, StageNode
from pipeline.supply.lock import Lock

SCHEMA = 1
"""Part of every key; raise it when the meaning of a document or the work of the sandbox changes."""

Entries = list[list[JsonValue]]


class NotBuiltError(Exception):
    """The key cannot be computed yet: this input is not built."""


class HasContent(Protocol):
    """The part of an artifact that keys need."""

    @property
    def content(self) -> Digest:
        """Digest of its content."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A node's key, the document that it is the digest of, and the trees behind the document's digests."""

    key: Digest
    document: dict[str, JsonValue]
    trees: Mapping[str, Entries]
    """By the path in the checkout; `explain` uses them to name changed files. They are not part of the key."""


class Keys:
    """The keys of a plan's nodes, each computed when it is first asked for.

    `lookup` finds an artifact of the store by key; `lock` returns the channel's lock. Safe to share between threads.
    """

    def __init__(
        self,
        plan: Plan,
        paths: Paths,
        driver: ChannelDriver,
        *,
        lock: Callable[[], Lock],
        lookup: Callable[[Digest], HasContent | None],
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.driver = driver
        self._lock = lock
        self._lookup = lookup
        self._known: dict[str, Keyed] = {}
        self._contents: dict[str, Digest] = {}
        self._trees: dict[str, Entries] = {}
        self._builders: dict[str, Digest] = {}
        self._guard = threading.RLock()

    def of(self, node: Node) -> Keyed:
        """Return the key and document of `node`. Raises NotBuiltError naming the first input that is not built."""
        with self._guard:
            known = self._known.get(node.name)
            if known is None:
                known = self._stage(node) if isinstance(node, StageNode) else self._channel(node)
                self._known[node.name] = known
            return known

    def content(self, name: str) -> Digest:
        """Return the digest of the content of the node with this name. Raises NotBuiltError if it is not built."""
        node = self.plan.nodes[name]
        if isinstance(node, ChannelNode) and node.what == "aports":
            return digest_json([list(row) for row in tree_entries(self.driver.aports())])
        with self._guard:
            found = self._contents.get(name)
            if found is None:
                artifact = self._lookup(self.of(node).key)
                if artifact is None:
                    raise NotBuiltError(name)
                found = self._contents[name] = artifact.content
            return found

    def reset(self) -> None:
        """Forget all keys, because the lock changed or an artifact turned out to be damaged."""
        with self._guard:
            self._known.clear()
            self._contents.clear()
            self._trees.clear()
            self._builders.clear()

    def tree(self, path: str) -> Entries:
        """Return the entries of a file or folder of the checkout, which is read once a run. Raises ConfigError."""
        if path not in self._trees:
            try:
                self._trees[path] = tree_entries(self.paths.checkout / path)
            except FileNotFoundError as error:
                raise ConfigError(f"{path}: no such file or folder in the checkout") from error
            except ValueError as error:
                raise ConfigError(str(error)) from error
        return self._trees[path]

    def _sources(self, node: StageNode) -> tuple[str, ...]:
        library = f"{self.paths.stages.name}/{LIBRARY}"
        folder = f"{self.paths.stages.name}/{node.spec.name}"
        return (folder, *((library,) if (self.paths.checkout / library).is_dir() else ()), *node.spec.sources)

    def _stage(self, node: StageNode) -> Keyed:
        trees = {path: self.tree(path) for path in self._sources(node)}
        digests: dict[str, JsonValue] = {path: digest_json([list(row) for row in rows]) for path, rows in trees.items()}
        document: dict[str, JsonValue] = {
            "schema": SCHEMA,
            "stage": node.spec.name,
            "options": {name: plain(value) for name, value in options_of(node, self.plan, self.driver, self._lock).items()},
            "sources": digests,
            "inputs": {name: self.content(source) for name, source in sorted(node.inputs.items())},
            "builder": self.builder(node.arch),
            "secrets": {name: digest_bytes(self.driver.signing_key()[2]) for name in node.spec.secrets},
        }
        return Keyed(digest_json(document), document, trees)

    def builder(self, arch: str = "") -> Digest:
        """Return the key of the builder that stages of an architecture run in; by default, of the channel's usual builder."""
        native = self.plan.builder_arch(arch)
        if native not in self._builders:
            self._builders[native] = self.driver.builder_key(self._lock(), native)
        return self._builders[native]

    def _channel(self, node: ChannelNode) -> Keyed:
        document: dict[str, JsonValue] = {"schema": SCHEMA, "channel": self.plan.channel.name, "what": node.what}
        if node.what == "repository":
            document["made of"] = self.driver.repository_key(self._lock(), node.arch)
        elif node.what == "wheels":
            document["made of"] = self.driver.wheels_key(self._lock(), node.arch)
        elif node.what == "keys":
            document["made of"] = {name: digest_bytes(pem) for name, pem in self.driver.keys().items()}
        else:
            raise AssertionError(f"{node.name} is a folder of the checkout and has no key")
        return Keyed(digest_json(document), document, {})


def options_of(node: StageNode, plan: Plan, driver: ChannelDriver, lock: Callable[[], Lock]) -> dict[str, OptionValue]:
    """Return all options of the script of `node`: those that every script gets, and its own.

    Raises LockError if the stage asks for the lock's choice and the lock has none for its world.
    """
    base: dict[str, OptionValue] = {
        "arch": node.arch,
        "branch": plan.channel.branch,
        "channel": plan.channel.name,
        "epoch": plan.channel.epoch,
        "target": node.target,
        "version": plan.version,
    }
    if "signing-key" in node.spec.secrets:
        base["signing_key_name"] = driver.signing_key()[0]
    if node.spec.locked:
        base["locked"] = lock().choice(node.arch, node.world)
    return {**base, **node.options}


def plain(value: OptionValue) -> JsonValue:
    """Return an option as JSON data."""
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def environment_of(options: Mapping[str, OptionValue]) -> dict[str, str]:
    """Return the options as TOWER_* variables for shell scripts; tables are only in options.json."""
    variables: dict[str, str] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            continue
        text = " ".join(value) if isinstance(value, tuple) else str(int(value)) if isinstance(value, bool) else str(value)
        variables["TOWER_" + name.upper().replace("-", "_")] = text
    return variables
