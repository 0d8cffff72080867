# SPDX-License-Identifier: Apache-2.0
"""What a build works with: driver, store, keys, engines, lock, downloads and builders, each made when first asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base.canonical import canonical_json
from pipeline.base.errors import LockError
from pipeline.base.filelock import locked
from pipeline.base.files import write_file
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.channels.driver import ChannelDriver
from pipeline.plan import explain
from pipeline.plan.keys import Keys, NotBuiltError
from pipeline.plan.nodes import Node, Plan, is_folder
from pipeline.store.store import Artifact, Store
from pipeline.supply import lockfile
from pipeline.supply.lock import Lock, Worlds

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine


@dataclass(eq=False)
class Workplace:
    """All of these for one plan. Its methods may be called from several threads."""

    plan: Plan
    paths: Paths
    progress: Screen
    _once: threading.RLock = field(default_factory=threading.RLock)
    _fetched: bool = False
    _lock: Lock | None = None
    _engines: dict[tuple[str, str], Engine] = field(default_factory=dict)
    """By the user's name for the engine and its architecture."""
    _builders: dict[str, str] = field(default_factory=dict)
    """Images, by the architecture of the stages."""

    @cached_property
    def driver(self) -> ChannelDriver:
        """The channel's driver."""
        # Loaded when first asked for: a run that only lists tasks needs none of it.
        from pipeline.channels.drivers import open_driver

        driver = open_driver(self.plan.channel, Worlds(self.plan.stage_worlds), self.paths)
        driver.report = self.progress.say
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
        """The container engine; it is connected to when something is built."""
        from pipeline.sandbox.engine import Engine

        return Engine(self.paths.checkout, report=self.progress.say)

    def engine_for(self, arch: str) -> Engine:
        """Return the engine for the stages of an architecture: the usual one, unless user or channel name another."""
        name = self.plan.engine_of(arch)
        if not name:
            return self.engine
        native = self.plan.builder_arch(arch)
        with self._once:
            if (name, native) not in self._engines:
                from pipeline.sandbox.engine import Engine
                from pipeline.sandbox.place import find_place

                made = Engine(
                    self.paths.checkout,
                    report=self.progress.say,
                    place=find_place(name, f"engine.{arch}"),
                    stopped=self.engine.stopped,
                )
                made.require(native, f"engine.{arch}")
                self._engines[name, native] = made
            return self._engines[name, native]

    def find(self, node: Node) -> Artifact | None:
        """Return the artifact of `node` for its present key, if the store has it undamaged."""
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

    # --- lock, downloads, builder ---------------------------------------------------------------------------

    @property
    def lock_path(self) -> Path:
        """Where the channel's lock is kept."""
        return lockfile.lock_path(self.paths, self.plan.channel)

    def lock_fits(self) -> bool:
        """Tell whether there is a lock that was made from the present checkout."""
        if not self.lock_path.is_file():
            return False
        lock = self._read_lock()
        fits = lock.made_from == self.driver.lock_key()
        self._lock = lock if fits else None
        return fits

    def lock(self) -> Lock:
        """Return the lock of the channel. Raises LockError if there is none that fits."""
        with self._once:
            if self._lock is None and not self.lock_fits():
                hint = f"run: {lockfile.lock_command(self.plan.channel)}"
                raise LockError(f"channel {self.plan.channel.name}: there is no lock that fits", hint=hint)
            return self._lock or self._read_lock()

    def _read_lock(self) -> Lock:
        return lockfile.read(self.lock_path, self.plan.channel)

    def make_lock(self, *, again: bool, accept_older: bool = False) -> Lock:
        """Resolve the channel's lock and keep it; with `again` even if the present one fits.

        A committed lock is only ever made by `doit lock`. Raises LockError.
        """
        with self._guarded("lock"):
            if not again and self.plan.channel.releasable:
                return self.lock()
            if again or not self._lock_usable():
                made = self.driver.lock(self.progress, renew=again, accept_older=accept_older)
                write_file(self.lock_path, lockfile.render(made).encode())
            self._lock = None
            self.keys.reset()
            return self.lock()

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Let only one process at a time make the lock, or the builder, of this checkout."""
        channel = self.plan.channel.name

        def waiting() -> None:
            self.progress.say(f"channel {channel}: the {what} is being made by another process; waiting for it")

        with locked(self.paths.channel(channel) / f"{what}.guard", on_wait=waiting, check=self.engine.check):
            yield

    def _lock_usable(self) -> bool:
        try:
            return self.lock_fits()
        except LockError as error:
            self.progress.say(f"{error.message}; it is made again")
            return False

    def fetch(self) -> None:
        """Bring everything that the lock names into the user's cache, once in a run."""
        with self._once:
            if not self._fetched:
                self.driver.fetch(self.lock(), self.progress)
                self._fetched = True

    @contextmanager
    def log(self, name: str) -> Iterator[BinaryIO]:
        """Open a new log file in build/log."""
        self.paths.logs.mkdir(parents=True, exist_ok=True)
        with (self.paths.logs / f"{name}.log").open("wb") as stream:
            yield stream

    def builder(self, arch: str = "") -> str:
        """Return the image of the builder for stages of an architecture; make it if the engine does not have it.

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

    def forget_builder(self, arch: str = "") -> None:
        """Look for the image of an architecture's builder again when it is asked for."""
        with self._once:
            self._builders.pop(arch if self.plan.engine_of(arch) else "", None)

    @property
    def _builder_record(self) -> Path:
        return self.paths.channel(self.plan.channel.name) / "builder.json"

    def builder_known(self) -> bool:
        """Tell whether an earlier run made the usual builder; if somebody removed it, it is made again when it is needed."""
        try:
            record = parse_json(read_regular(self._builder_record))
            return bool(record["key"] == self.driver.builder_key(self.lock(), self.plan.channel.builder_arch))
        except (OSError, ValueError, KeyError, TypeError):
            return False
