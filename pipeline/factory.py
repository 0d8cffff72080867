# SPDX-License-Identifier: Apache-2.0
"""The factory: one checkout with one channel, and how a node of its plan gets built.

Ties plan, keys, store, channel and sandbox together. What is costly to load (the container engine, the channel's
driver) is loaded when something is built and not before, so that a run with nothing to do is quick.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline import children, explain, lockfile
from pipeline.artifact import DamagedError, FileRecord
from pipeline.canonical import Digest, canonical_json
from pipeline.channel import ChannelDriver, Lock, SolvesWorlds, open_driver
from pipeline.errors import LockError, StoreError
from pipeline.keys import Keyed, Keys, NotBuiltError
from pipeline.locks import locked
from pipeline.paths import Paths
from pipeline.plan import ChannelNode, Node, Plan, StageNode, is_folder
from pipeline.progress import Screen
from pipeline.store import Artifact, Store, Work

if TYPE_CHECKING:
    from pipeline.cache.shared import Cache
    from pipeline.engine import Engine

_REPAIRS = 3
_STOP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact, and whether this run made it, or pulled it from the shared cache."""

    artifact: Artifact
    fresh: bool
    seconds: float
    pulled: bool = False

    @property
    def state(self) -> str:
        """For the line of its task."""
        return "pulled" if self.pulled else "built" if self.fresh else "cached"


@dataclass(eq=False)
class Factory:
    """Everything that tasks need, made from a plan. Its methods may be called from several threads."""

    plan: Plan
    paths: Paths
    progress: Screen
    clock: str = ""
    """For `verify:reproducible`: seconds that programs in the sandboxes see added to the time; no part of any key."""
    given: Mapping[str, str] = field(default_factory=dict)
    """The variables of the command line, for the shared cache."""
    _once: threading.RLock = field(default_factory=threading.RLock)
    _fetched: bool = False
    _lock: Lock | None = None
    _engines: dict[str, Engine] = field(default_factory=dict)
    _builders: dict[str, str] = field(default_factory=dict)
    """Images by the architecture of the stages."""
    _running: set[str] = field(default_factory=set)
    _there_before: frozenset[int] = field(default_factory=lambda: frozenset(children.running()))
    """The engine, if ci/doit has just started it: this process is then its parent, and leaves it running."""

    @cached_property
    def driver(self) -> ChannelDriver:
        """The channel's driver."""
        driver = open_driver(self.plan.channel, self.plan.worlds, self.paths)
        if isinstance(driver, SolvesWorlds):
            driver.stage_worlds = self.plan.stage_worlds
        return driver

    @cached_property
    def store(self) -> Store:
        """The artifacts of this checkout."""
        return Store(self.paths.store, report=self.progress.say, stop=self.engine.check)

    @cached_property
    def keys(self) -> Keys:
        """The keys of the plan's nodes."""
        return Keys(self.plan, self.paths, self.driver, lock=self.lock, lookup=self.store.lookup)

    @cached_property
    def engine(self) -> Engine:
        """The container engine, which is connected to when something is built."""
        from pipeline.engine import Engine

        return Engine(self.paths.checkout, report=self.progress.say)

    def engine_for(self, arch: str) -> Engine:
        """The engine that stages of an architecture run on: the usual one, if neither user nor channel name another."""
        name = self.plan.engine_of(arch)
        if not name:
            return self.engine
        with self._once:
            if name not in self._engines:
                from pipeline.engine import Engine
                from pipeline.engine_place import find_place

                made = Engine(
                    self.paths.checkout,
                    report=self.progress.say,
                    place=find_place(name, f"engine.{arch}"),
                    stopped=self.engine.stopped,
                )
                made.require(self.plan.builder_arch(arch), f"engine.{arch}")
                self._engines[name] = made
            return self._engines[name]

    @cached_property
    def cache(self) -> Cache | None:
        """The shared cache, if `cache=` names one."""
        if "cache" not in self.given and "cache-key" not in self.given:
            return None
        from pipeline.cache.commands import open_cache

        return open_cache(self, self.given)

    # --- lock, downloads, builder ---------------------------------------------------------------------------

    @property
    def lock_path(self) -> Path:
        """Where the channel's lock is kept."""
        return lockfile.lock_path(self.paths, self.plan.channel)

    def lock_fits(self) -> bool:
        """Whether there is a lock, made from what is now in the checkout."""
        if not self.lock_path.is_file():
            return False
        lock = self._read_lock()
        fits = lock.made_from == self.driver.lock_key()
        self._lock = lock if fits else None
        return fits

    def lock(self) -> Lock:
        """The lock of the channel. Raises LockError if there is none that fits."""
        with self._once:
            if self._lock is None and not self.lock_fits():
                hint = f"run: {lockfile.lock_command(self.plan.channel)}"
                raise LockError(f"channel {self.plan.channel.name}: there is no lock that fits", hint=hint)
            return self._lock or self._read_lock()

    def _read_lock(self) -> Lock:
        return lockfile.read(self.lock_path, self.plan.channel)

    def make_lock(self, *, again: bool) -> Lock:
        """Resolve the channel's lock and keep it; with `again` even if the present one fits.

        A committed lock is never made by the way: only `doit lock` does it.
        """
        with self._guarded("lock"):
            if not again and self.plan.channel.releasable:
                return self.lock()
            if again or not self._lock_usable():
                write_file(self.lock_path, lockfile.render(self.driver.lock(self.progress)).encode())
            self._lock = None
            self.keys.reset()
            return self.lock()

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Only one process at a time makes the lock, or the builder, of this checkout."""
        channel = self.plan.channel.name

        def waiting() -> None:
            self.progress.say(f"channel {channel}: the {what} is being made by another process; waiting for it")

        with locked(self.paths.channel(channel) / f"{what}.guard", on_wait=waiting, check=self.engine.check):
            yield

    def _lock_usable(self) -> bool:
        try:
            return self.lock_fits()
        except LockError:
            return False

    def fetch(self) -> None:
        """Bring all that the lock names into the user's cache; once a run."""
        with self._once:
            if not self._fetched:
                self.driver.fetch(self.lock(), self.progress)
                self._fetched = True

    def log_path(self, node: Node, key: Digest) -> Path:
        """Where the output of a node's last build of `key` is."""
        return self.paths.logs / f"{log_name(node, key)}.log"

    @contextmanager
    def log(self, name: str) -> Iterator[BinaryIO]:
        """A new log file in build/log."""
        self.paths.logs.mkdir(parents=True, exist_ok=True)
        with (self.paths.logs / f"{name}.log").open("wb") as stream:
            yield stream

    def builder(self, arch: str = "") -> str:
        """The image of the builder in the engine that stages of an architecture run on, made if it is not there.

        Without an architecture: of the usual builder, in the usual engine.
        """
        arch = arch if self.plan.engine_of(arch) else ""
        with self._once:
            if arch not in self._builders:
                native, engine = self.plan.builder_arch(arch), self.engine_for(arch)
                key = self.driver.builder_key(self.lock(), native)
                self.fetch()
                with self._guarded("builder"), self.log(f"builder.{key[:12]}") as log:
                    engine.reap_once()
                    self._builders[arch] = self.driver.builder(self.lock(), native, engine, log)
                if engine is self.engine:
                    write_file(self._builder_record, canonical_json({"key": key, "image": self._builders[arch]}))
            return self._builders[arch]

    @property
    def _builder_record(self) -> Path:
        return self.paths.channel(self.plan.channel.name) / "builder.json"

    def builder_known(self) -> bool:
        """Whether the usual builder was made in an earlier run; it is made again in time if somebody removed it."""
        try:
            record = json.loads(self._builder_record.read_bytes())
            return bool(record["key"] == self.driver.builder_key(self.lock(), self.plan.channel.builder_arch))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    # --- nodes ----------------------------------------------------------------------------------------------

    def find(self, node: Node) -> Artifact | None:
        """The artifact of `node` as it must now be, if the store has it and it is undamaged."""
        if is_folder(node):
            return None
        try:
            keyed = self.keys.of(node)
        except (NotBuiltError, LockError):
            return None
        artifact = self.store.lookup(keyed.key)
        if artifact is not None:
            explain.remember(self.paths, node, keyed)
        return artifact

    def need(self, node: Node) -> Built:
        """The artifact of `node`, built with all that it needs if it is not there."""
        self._need_inputs(node)
        artifact = self.find(node)
        return Built(artifact, fresh=False, seconds=0.0) if artifact is not None else self.build(node)

    def _need_inputs(self, node: Node) -> None:
        for name in node.inputs.values() if isinstance(node, StageNode) else ():
            self.need_by_name(name)

    def need_by_name(self, name: str) -> None:
        """Build the node of this name, with all that it needs, if it is not there."""
        if not is_folder(self.plan.nodes[name]):
            self.need(self.plan.nodes[name])

    def build(self, node: Node) -> Built:
        """The artifact of `node`, whose inputs are built already.

        An input that turns out to be damaged or gone is built again first, and the key is made anew.
        """
        for _ in range(_REPAIRS):
            try:
                return self._build(node)
            except DamagedError as error:
                self.progress.say(f"{node.name}: {error.message}; it is built again")
                if error.key is not None:
                    self.store.reject(error.key, error.message)
                self.keys.reset()
                self._need_inputs(node)
            except NotBuiltError as error:
                self.need(self.plan.nodes[str(error)])
        return self._build(node)

    def discard(self, node: Node) -> None:
        """Remove the artifact that `node` now has, if no other build uses it."""
        from pipeline.gc import collect

        artifact = self.find(node)
        if artifact is not None:
            self.store.close()  # our own hold on it
            collect(self.store, keep=set(self.store.built_keys()) - {artifact.key}, max_bytes=0)

    def stop(self) -> None:
        """End all sandboxes and programs of this process, and wait for their threads to tidy up."""
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
            if pulled is not None:
                explain.remember(self.paths, node, keyed)
                return Built(pulled, fresh=False, seconds=time.monotonic() - started, pulled=True)
            with self.log(log_name(node, keyed.key)) as log:
                known = (
                    self._run(node, keyed, work.path, log) if isinstance(node, StageNode) else self._fill(node, work.path, log)
                )
            seconds = time.monotonic() - started
            artifact = work.commit(seconds, known)
        explain.remember(self.paths, node, keyed)
        return Built(artifact, fresh=True, seconds=seconds)

    def _pull(self, node: Node, keyed: Keyed, work: Work) -> Artifact | None:
        if not isinstance(node, StageNode):
            return None
        with self._once:
            cache = self.cache
        return cache.pull(node.name, keyed.document, work) if cache is not None else None

    def _run(self, node: StageNode, keyed: Keyed, output: Path, log: BinaryIO) -> Mapping[str, FileRecord]:
        from pipeline.execution import run_node

        return run_node(self, node, keyed, output, log)

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


def log_name(node: Node, key: Digest) -> str:
    """The name of a node's log below build/log, without its ending."""
    return f"{node.name.partition(':')[2].replace(':', '-')}.{key[:12]}"


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}", hint="make room or look at the permissions") from error
    finally:
        temporary.unlink(missing_ok=True)
