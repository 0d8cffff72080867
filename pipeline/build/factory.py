# SPDX-License-Identifier: Apache-2.0
"""The factory: one checkout with one channel; it builds the nodes of the plan.

It combines plan, keys, store, channel and sandbox. Modules that are slow to load (the container engine, the channel's
driver) are loaded only when something is built, so that a run with nothing to do is quick.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.base import children
from pipeline.base.canonical import Digest
from pipeline.build.workplace import Workplace
from pipeline.plan import explain
from pipeline.plan.keys import Keyed, NotBuiltError
from pipeline.plan.nodes import ChannelNode, Node, StageNode, is_folder
from pipeline.store.artifact import DamagedError, FileRecord
from pipeline.store.store import Artifact, Work

if TYPE_CHECKING:
    from pipeline.build.execution import StageRun
    from pipeline.store.cache.shared import SharedCache

_REPAIRS = 3
_STOP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact, and whether this run built or pulled it."""

    artifact: Artifact
    fresh: bool
    seconds: float
    pulled: bool = False

    @property
    def state(self) -> str:
        """The state for the task's line."""
        return "pulled" if self.pulled else "built" if self.fresh else "cached"


@dataclass(eq=False)
class Factory(Workplace):
    """Everything that tasks need, made from a plan. Its methods may be called from several threads."""

    clock: str = ""
    """For `verify:reproducible`: seconds added to the clock in the sandboxes; not part of any key."""
    given: Mapping[str, str] = field(default_factory=dict)
    """The variables of the command line, for the shared cache."""
    _running: set[str] = field(default_factory=set)
    _there_before: frozenset[int] = field(default_factory=lambda: frozenset(children.running()))
    """The engine, if ci/doit has just started it: this process is then its parent, and leaves it running at the end."""

    @cached_property
    def cache(self) -> SharedCache | None:
        """The shared cache that `cache=` names, or None."""
        if "cache" not in self.given and "cache-key" not in self.given:
            return None
        from pipeline.store.cache.chosen import open_cache

        return open_cache(self.given, self.paths.checkout, check=self.engine.check, report=self.progress.say)

    def need(self, node: Node) -> Built:
        """Return the artifact of `node`; build it and its inputs if they are missing."""
        self.need_inputs(node)
        artifact = self.find(node)
        return Built(artifact, fresh=False, seconds=0.0) if artifact is not None else self.build(node)

    def need_inputs(self, node: Node) -> None:
        """Build the inputs of `node` that are missing."""
        for name in node.inputs.values() if isinstance(node, StageNode) else ():
            self.need_by_name(name)

    def need_by_name(self, name: str) -> None:
        """Build the node of this name and its inputs, if they are missing."""
        if not is_folder(self.plan.nodes[name]):
            self.need(self.plan.nodes[name])

    def build(self, node: Node) -> Built:
        """Return the artifact of `node`, whose inputs are built already.

        An input that turns out to be damaged or gone is built again first, and the key is computed again.
        """
        for _ in range(_REPAIRS):
            try:
                return self._build(node)
            except DamagedError as error:
                self.progress.say(f"{node.name}: {error.message}; it is built again")
                if error.key is not None:
                    self.store.reject(error.key, error.message)
                self.keys.reset()
                self.need_inputs(node)
            except NotBuiltError as error:
                self.need(self.plan.nodes[str(error)])
        return self._build(node)

    def discard(self, node: Node) -> None:
        """Remove the present artifact of `node`, unless another build uses it."""
        from pipeline.store.gc import collect

        artifact = self.find(node)
        if artifact is not None:
            self.store.close()  # our own hold on it
            collect(self.store, keep=set(self.store.built_keys()) - {artifact.key}, max_bytes=0)

    def stop(self) -> None:
        """End all sandboxes and programs of this process, and wait until their threads have cleaned up."""
        if "engine" in self.__dict__:
            self.engine.stop()
            children.stop_all(_STOP_SECONDS / 2, but=self._there_before)
            deadline = time.monotonic() + _STOP_SECONDS
            while self._running and time.monotonic() < deadline:
                time.sleep(0.1)

    def _build(self, node: Node) -> Built:
        self._running.add(node.name)
        try:
            return self._build_locked(node)
        finally:
            self._running.discard(node.name)

    def _build_locked(self, node: Node) -> Built:
        keyed = self.keys.of(node)
        with self.store.building(keyed.key, keyed.document) as work:
            if work.existing is not None:
                return Built(work.existing, fresh=False, seconds=0.0)
            started = time.monotonic()
            pulled = self._pull(node, keyed, work)
            artifact = pulled or self._make(node, keyed, work)
            seconds = time.monotonic() - started
        explain.remember(self.paths, node, keyed)
        return Built(artifact, fresh=pulled is None, seconds=seconds, pulled=pulled is not None)

    def _make(self, node: Node, keyed: Keyed, work: Work) -> Artifact:
        started = time.monotonic()
        with self.log(log_name(node, keyed.key)) as log:
            known = self._run(node, keyed, work.path, log) if isinstance(node, StageNode) else self._fill(node, work.path, log)
        return work.commit(time.monotonic() - started, known)

    def _pull(self, node: Node, keyed: Keyed, work: Work) -> Artifact | None:
        if not isinstance(node, StageNode):
            return None
        with self._once:
            cache = self.cache
        return cache.pull(node.name, keyed.document, work) if cache is not None else None

    def _run(self, node: StageNode, keyed: Keyed, output: Path, log: BinaryIO) -> Mapping[str, FileRecord]:
        from pipeline.build.execution import run_node

        return run_node(self.stage_run(node, keyed), output, log, self.log_path(node, keyed.key))

    def stage_run(self, node: StageNode, keyed: Keyed) -> StageRun:
        """Return the inputs for a run of the script of `node`; build those that are missing."""
        from pipeline.build.execution import StageRun

        needed = {name: self.plan.nodes[source] for name, source in node.inputs.items()}
        artifacts = {name: self.need(one).artifact for name, one in needed.items() if not is_folder(one)}
        return StageRun(self, node, keyed, artifacts, self.clock)

    def _fill(self, node: ChannelNode, output: Path, log: BinaryIO) -> Mapping[str, FileRecord]:
        if node.what == "keys":
            for name, pem in self.driver.keys().items():
                (output / name).write_bytes(pem)
            return {}
        self.fetch()
        if node.what == "repository":
            self.driver.repository(self.lock(), node.arch, output, log)
        else:
            self.driver.wheels(self.lock(), node.arch, output)
        return {}

    def log_path(self, node: Node, key: Digest) -> Path:
        """Return the log of a node's last build of `key`."""
        return self.paths.logs / f"{log_name(node, key)}.log"


def log_name(node: Node, key: Digest) -> str:
    """Return the name of a node's log below build/log, without its suffix."""
    return f"{node.name.partition(':')[2].replace(':', '-')}.{key[:12]}"
