# SPDX-License-Identifier: Apache-2.0
"""The lab as a channel: what the factory asks for, answered by the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.canonical import Digest, JsonValue, digest_bytes, digest_json, digest_tree
from pipeline.channel import Channel, Lock, LockedFile, Progress, report_nothing
from pipeline.config import Problems, table_of
from pipeline.errors import ConfigError, LockError, VerifyError
from pipeline.fetch import Source, fetch
from pipeline.lab.apt import Apt, Suite
from pipeline.lab.assemble import claimed, select
from pipeline.lab.catalog import Catalog, Definition, read_catalog
from pipeline.lab.code import code_digest
from pipeline.lab.debian import SETTING, find_mirror
from pipeline.paths import Paths
from pipeline.signing import CheckoutKey, checkout_key
from pipeline.vault import Vault
from pipeline.wheels import GLIBC, WheelSet, WheelShop

if TYPE_CHECKING:
    from pipeline.engine import Engine
    from pipeline.lab.assemble import Job
    from pipeline.lab.builder import BuilderPlan
    from pipeline.lab.repository import Workshop

_ROUNDS = 10
_REPOSITORY = "main"


@dataclass(frozen=True, slots=True)
class LabSettings:
    """The table `[settings]` of the channel's file."""

    suite: str
    components: tuple[str, ...]
    mirror: str
    python: str
    builder: tuple[str, ...]
    builder_packages: tuple[str, ...]


def read_settings(channel: Channel) -> LabSettings:
    """The channel's own settings; ConfigError lists every mistake."""
    problems = Problems()
    table = table_of(dict(channel.settings), f"pipeline/channels/{channel.path.name}", "settings", problems)
    found = LabSettings(
        suite=table.text("suite"),
        components=table.strings("components"),
        mirror=table.text("mirror", ""),
        python=table.text("python"),
        builder=table.strings("builder"),
        builder_packages=table.strings("builder_packages"),
    )
    table.close()
    problems.check(f"channel {channel.name}")
    return found


def _asked(definition: Definition) -> JsonValue:
    """What of a folder decides which Debian packages are needed."""
    return [list(definition.debs), list(definition.arch), list(definition.depends), list(definition.stands_for)]


class LabDriver:
    """Implements `pipeline.channel.ChannelDriver`."""

    def __init__(self, channel: Channel, worlds: Mapping[str, frozenset[str]], paths: Paths) -> None:
        self.channel = channel
        self.paths = paths
        self.report: Callable[[str], None] = report_nothing
        self.settings = read_settings(channel)
        # The builder takes these from the repository of its architecture.
        extra = {channel.builder_arch: frozenset(self.settings.builder_packages)}
        self.worlds = {arch: worlds.get(arch, frozenset()) | extra.get(arch, frozenset()) for arch in channel.architectures}

    @cached_property
    def catalog(self) -> Catalog:
        """The tables."""
        return read_catalog()

    @cached_property
    def key(self) -> CheckoutKey:
        """The checkout's signing key."""
        return checkout_key(self.home / "keys", "lab")

    @property
    def home(self) -> Path:
        """What the channel generates in this checkout."""
        return self.paths.channel(self.channel.name)

    @cached_property
    def vault(self) -> Vault:
        """The downloads."""
        return Vault(self.paths.cache / "vault")

    # --- lock and downloads ---------------------------------------------------------------------------------

    def lock_key(self) -> Digest:
        """Digest of worlds, tables and settings."""
        catalog = self.catalog
        return digest_json(
            {
                "worlds": {arch: list[JsonValue](sorted(names)) for arch, names in self.worlds.items()},
                "folders": {name: _asked(item) for name, item in catalog.folders.items()},
                "names": {name: list(debs) for name, debs in catalog.names.items()},
                "ignored": list(catalog.ignored),
                "suite": [self.settings.suite, *self.settings.components],
                "builder": [self.channel.builder_arch, *self.settings.builder],
                "wheels": {arch: self._wheel_set(arch).key for arch in self.channel.architectures},
            }
        )

    def lock(self, progress: Progress) -> Lock:
        """Let apt resolve all worlds (network for the indexes; earlier ones serve if the mirror is away)."""
        suite = Suite(find_mirror(self.settings.mirror), self.settings.suite, self.settings.components)
        apts = {arch: Apt(self.paths.cache / "apt", suite, arch) for arch in self.channel.architectures}
        for apt in apts.values():
            progress.say(f"lab: indexes of {suite.name} for {apt.arch} from {suite.mirror}")
            apt.update(progress)
        packages = {arch: self._closure(apt) for arch, apt in apts.items()}
        builder = apts[self.channel.builder_arch].closure([*self.settings.builder, *self._builder_debs()], essential=True)
        return Lock(
            channel=self.channel.name,
            made_from=self.lock_key(),
            packages=packages,
            builder=builder,
            wheels={arch: self._wheels.resolve(self._wheel_set(arch), progress) for arch in self.channel.architectures},
            notes={"suite": self.settings.suite},
        )

    def _closure(self, apt: Apt) -> tuple[LockedFile, ...]:
        """All Debian packages behind a world, also those behind folders whose files came in as dependencies."""
        catalog, world = self.catalog, frozenset(self.worlds[apt.arch])
        found: tuple[LockedFile, ...] = ()
        for _ in range(_ROUNDS):
            found = apt.closure(catalog.expand(world, apt.arch)[1], catalog.standing)
            more = world | claimed(catalog, {deb.name: deb for deb in found}, world, apt.arch)
            if more == world:
                break
            world = more
        return found

    def _builder_debs(self) -> tuple[str, ...]:
        """Debian packages whose files are part of the lab's packages that are laid into the builder."""
        arch = self.channel.builder_arch
        return tuple(
            deb
            for name in self.settings.builder_packages
            if name in self.catalog.folders
            for deb in self.catalog.folders[name].debs_for(arch)
        )

    def fetch(self, lock: Lock, progress: Progress) -> None:
        """Bring the Debian packages of all architectures and of the builder, and the wheels."""
        wanted = [*lock.builder, *(deb for packages in lock.packages.values() for deb in packages)]
        if self.vault.missing(wanted):
            unreachable = f"look at the network; what is fetched already is kept (another mirror: {SETTING})"
            source = Source((find_mirror(self.settings.mirror),), unreachable=unreachable)
            fetch(wanted, self.vault, source, progress, title="Debian packages")
        for arch, wheels in lock.wheels.items():
            if self.vault.missing(wheels) and self._wheels.resolve(self._wheel_set(arch), progress) != wheels:
                raise LockError(f"wheels for {arch}: not those of the lock", hint="run: ./ci/doit lock")

    # --- repository -----------------------------------------------------------------------------------------

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        """Code, tables, locked packages, world, epoch and public key."""
        sources = sorted({source for item in self.catalog.folders.values() for source in item.sources.values()})
        return {
            "code": code_digest("pipeline.lab.repository"),
            "tables": self.catalog.digest,
            "sources": {source: digest_tree(self.paths.checkout / source) for source in sources},
            "packages": [[deb.name, deb.version, deb.sha256] for deb in lock.packages[arch]],
            "world": list[JsonValue](sorted(self.worlds[arch])),
            "branch": self.channel.branch,
            "epoch": self.channel.epoch,
            "key": digest_bytes(self.key.public_pem()),
        }

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        """Convert, sign, index."""
        from pipeline.lab.repository import convert_all, write_repository

        shop = self._workshop()

        def say(text: str) -> None:
            log.write(f"{text}\n".encode())

        try:
            jobs = self._jobs(shop, lock, arch)
            unsigned = convert_all(shop, jobs, say)
        except VerifyError:
            # A download that was damaged after it was verified must not stay: the next run fetches it again.
            for deb in lock.packages[arch]:
                self.vault.recheck(deb)
            raise
        description = f"lab {self.settings.suite} {lock.digest[:12]}"
        folder = output / self.channel.branch / _REPOSITORY / arch
        write_repository(jobs, unsigned, folder, signer=self.key.signer(), epoch=self.channel.epoch, description=description)

    def remove_superseded(self) -> tuple[int, int]:
        """For gc: conversions that were made anew since; how many went, and their bytes on the disk."""
        from pipeline.lab.superseded import remove_superseded

        return remove_superseded(self.home / "apk")

    def _workshop(self) -> Workshop:
        from pipeline.lab.repository import Workshop

        return Workshop(self.paths.checkout, self.vault, self.home / "apk", self.channel.epoch, self.keys(), self.report)

    def _jobs(self, shop: Workshop, lock: Lock, arch: str) -> list[Job]:
        from pipeline.lab.repository import plan_jobs

        return plan_jobs(shop, self.catalog, lock.packages[arch], self.worlds[arch], arch)

    # --- builder --------------------------------------------------------------------------------------------

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        """Names the builder: its packages, and the files of the lab's tools that are laid over them."""
        return self._builder_plan(lock, arch).key()

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        """The image's id; made by mmdebstrap if the engine does not have it."""
        from pipeline.builder import ensure_builder
        from pipeline.lab.builder import make_root

        plan = self._builder_plan(lock, arch)

        def make(tar: Path, folder: Path) -> None:
            make_root(plan, self.vault.path, tar, folder, log)

        return ensure_builder(engine, plan.key(), channel=plan.channel, arch=arch, scratch=self.home / "tmp", make=make)

    def _builder_plan(self, lock: Lock, arch: str) -> BuilderPlan:
        from pipeline.lab.builder import BuilderPlan

        if arch != self.channel.builder_arch:
            raise ConfigError(
                f"channel {self.channel.name}: its builder is for {self.channel.builder_arch} alone, not for {arch}",
                hint=f"leave {arch} out of `native_builders` in pipeline/channels/{self.channel.path.name}",
            )
        products = select(self.catalog, lock.packages[arch], self.worlds[arch], arch)
        wanted = self.settings.builder_packages
        overlays = tuple(product for product in products if product.name in wanted)
        return BuilderPlan(
            channel=self.channel.name,
            arch=arch,
            suite=self.settings.suite,
            epoch=self.channel.epoch,
            wanted=tuple(sorted({*self.settings.builder, *self._builder_debs()})),
            packages=lock.builder,
            overlays=overlays,
            drop=self.catalog.drop,
            checkout=self.paths.checkout,
        )

    # --- wheels ---------------------------------------------------------------------------------------------

    @property
    def requirements(self) -> Path:
        """What the runtime needs of Python, by hash."""
        return self.paths.checkout / "runtime" / "requirements.lock"

    @cached_property
    def _wheels(self) -> WheelShop:
        return WheelShop(self.vault, self.paths.cache / "wheel-sets")

    def _wheel_set(self, arch: str) -> WheelSet:
        return WheelSet(self.requirements, self.settings.python, arch, GLIBC)

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        """The locked wheels."""
        return [[wheel.location, wheel.sha256] for wheel in lock.wheels[arch]]

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        """Copy them out of the cache."""
        self._wheels.copy(lock.wheels[arch], output)

    # --- keys -----------------------------------------------------------------------------------------------

    def keys(self) -> Mapping[str, bytes]:
        """The lab's one key."""
        return {self.key.name: self.key.public_pem()}

    def signing_key(self) -> tuple[str, bytes, bytes]:
        """The same key: the lab signs our own packages too."""
        return self.key.name, self.key.private.read_bytes(), self.key.public_pem()

    def aports(self) -> Path:
        """The lab's stand-in for Alpine's aports."""
        return self.paths.checkout / "pipeline" / "lab" / "aports"
