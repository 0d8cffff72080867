# SPDX-License-Identifier: Apache-2.0
"""Alpine's driver: it does what the factory asks of a channel, with the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_file, digest_json
from pipeline.base.code_digest import code_digest
from pipeline.base.errors import LockError
from pipeline.base.paths import Paths
from pipeline.base.progress import Progress
from pipeline.channels.alpine import aports
from pipeline.channels.alpine.indexes import Freshness, SignedIndex, age_in_days, day, read_signed
from pipeline.channels.alpine.media import LIST, find_medium, read_list
from pipeline.channels.alpine.packages import Wanted, by_checksum, choice_of, lock_packages
from pipeline.channels.alpine.repository import lay_repository, locked_indexes
from pipeline.channels.alpine.settings import AlpineSettings, builder_worlds, vanished_hint
from pipeline.channels.driver import LocalMirror, report_nothing
from pipeline.config.channel import Channel
from pipeline.supply import lockfile
from pipeline.supply.fetch import Mirrors, VanishedError, fetch, get_checked
from pipeline.supply.lock import Lock, LockedFile, Worlds
from pipeline.supply.signing import CheckoutKey, checkout_key
from pipeline.supply.trust import Trust, load_trust, own_trust
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelSet, WheelShop

if TYPE_CHECKING:
    from pipeline.apk.solver.solve import Solution
    from pipeline.channels.alpine.builder import BuilderPlan
    from pipeline.sandbox.engine import Engine

_INDEX_LIMIT = 64 << 20
_LIST_LIMIT = 1 << 20
_NOWHERE = "/dev/null"
"""Locks are made from the signed indexes themselves, so that a user's cache of parsed ones cannot influence them."""


class AlpineDriver:
    """Implements `pipeline.channels.driver.ChannelDriver`; `mirror` is the channel's own, or None if it has addresses."""

    def __init__(
        self, channel: Channel, settings: AlpineSettings, worlds: Worlds, paths: Paths, mirror: LocalMirror | None = None
    ) -> None:
        self.channel = channel
        self.settings = settings
        self.worlds = worlds
        self.paths = paths
        self.mirror = mirror
        self.report: Callable[[str], None] = report_nothing

    @cached_property
    def trust(self) -> Trust:
        """The keys that may sign packages: Alpine's; for a mirror made here, the key that it was made with."""
        if self.mirror is None:
            return load_trust(self.paths.checkout / "keys" / "alpine")
        return own_trust(self.mirror.key.name, self.mirror.key.public_pem(), self.channel.architectures)

    @cached_property
    def _downloads(self) -> Vault:
        return Vault(self.paths.cache / "vault")

    @cached_property
    def vault(self) -> Vault:
        """All files that locks name. Files of a mirror made here stay in the mirror: this checkout's key signs them."""
        if self.mirror is None:
            return self._downloads
        mirror, downloads = self.mirror, self._downloads

        def elsewhere(digest: Digest) -> Path | None:
            place = downloads.place(digest)
            return mirror.find(digest) or (place if place.is_file() else None)

        return Vault(self.home / "vault", elsewhere)

    @cached_property
    def key(self) -> CheckoutKey:
        """The key that signs our own packages and the medium's repository, made once for this checkout."""
        return self.mirror.key if self.mirror else checkout_key(self.home / "keys", "tower")

    @property
    def home(self) -> Path:
        """The folder that the channel generates in this checkout."""
        return self.paths.channel(self.channel.name)

    def _worlds(self, arch: str) -> tuple[frozenset[str], ...]:
        """Return the worlds of the roots of an architecture, one for each stage."""
        return self.worlds.of(arch)

    @property
    def _source(self) -> Mirrors:
        return self.settings.source(self.channel, self.mirror.folder if self.mirror else None)

    @property
    def _aports_source(self) -> Mirrors:
        return self.settings.aports_source(self.channel, self.mirror.folder if self.mirror else None)

    # --- lock -----------------------------------------------------------------------------------------------

    def lock_key(self) -> Digest:
        """Return the digest of worlds, settings and trusted keys, and of the inputs of a mirror made here.

        The addresses of other mirrors do not count, because they decide nothing.
        """
        settings = self.settings
        return digest_json(
            {
                "worlds": {
                    arch: sorted([list[JsonValue](sorted(world)) for world in self._worlds(arch)], key=str)
                    for arch in self.channel.architectures
                },
                **({"mirror": self.mirror.inputs()} if self.mirror else {}),
                "choices": True,
                **({"format": settings.apk_format} if settings.apk_format > 2 else {}),
                "branch": self.channel.branch,
                "repositories": list(settings.repositories),
                "builders": {arch: [settings.minirootfs, *self._builder_world(arch)] for arch in self._builder_archs},
                "media": {arch: list(flavors) for arch, flavors in settings.media.items()},
                "keys": {key.file: [key.spki_sha256, *key.architectures] for key in self.trust.keys},
                "requirements": digest_file(self.requirements),
            }
        )

    def lock(self, progress: Progress, *, renew: bool = False, accept_older: bool = False) -> Lock:
        """Read the signed indexes, solve all worlds, verify the packages and note their digests (uses the network)."""
        if self.mirror is not None:
            self.mirror.make(progress, renew=renew)
        before = self._previous()
        indexes = {arch: self._indexes(arch, progress) for arch in self.channel.architectures}
        if self.mirror is None:
            every = [index for found in indexes.values() for index in found]
            self._check_fresh(every, before, progress, accept_older=accept_older)
        solved = {arch: self._solve(arch, found, self._worlds(arch)) for arch, found in indexes.items()}
        solutions = {arch: by_checksum(found, indexes[arch]) for arch, found in solved.items()}
        builder_arch = self.channel.builder_arch
        builders = {
            arch: by_checksum(self._solve(arch, indexes[arch], (frozenset(self._builder_world(arch)),)), indexes[arch])
            for arch in self._builder_archs
        }
        known = [file for table in (*before.packages.values(), *before.builders) for file in table] if before else []
        # Fetch both in one batch, since they have most packages in common.
        both = {arch: {**wanted, **builders.get(arch, {})} for arch, wanted in solutions.items()}
        files = {arch: self._lock_packages(arch, wanted.values(), known, progress) for arch, wanted in both.items()}
        packages = {arch: tuple(file for file in files[arch] if file.checksum in solutions[arch]) for arch in files}
        made = Lock(
            channel=self.channel.name,
            made_from=self.lock_key(),
            packages=packages,
            builder=tuple(file for file in files[builder_arch] if file.checksum in builders[builder_arch]),
            native_builders={
                arch: tuple(file for file in files[arch] if file.checksum in builders[arch])
                for arch in self.channel.native_builders
            },
            wheels={arch: self._resolve_wheels(arch, packages[arch], progress) for arch in packages},
            notes={"branch": self.channel.branch},
            indexes={arch: tuple(index.file for index in found) for arch, found in indexes.items()},
            media=self._media(indexes[builder_arch][0], progress),
            choices={arch: tuple(sorted(map(choice_of, found))) for arch, found in solved.items() if found},
        )
        for found in indexes.values():
            for index in found:
                self.vault.put(index.data)
        if self.mirror is None:
            self._freshness(before).accept([index for found in indexes.values() for index in found], older=accept_older)
        return made

    def _previous(self) -> Lock | None:
        """Return the present lock; None if there is none, or if it is damaged, since another one is about to be made."""
        path = lockfile.lock_path(self.paths, self.channel)
        try:
            return lockfile.read(path, self.channel)
        except LockError:
            return None

    def _indexes(self, arch: str, progress: Progress) -> tuple[SignedIndex, ...]:
        ring, source = self.trust.ring(arch), self._source
        found = []
        for repository in self.settings.repositories:
            progress.say(f"{self.channel.name}: index of {repository} for {arch}")
            location = f"{self.channel.branch}/{repository}/{arch}/{self.settings.index_file}"

            def verified(data: bytes, repository: str = repository, location: str = location) -> SignedIndex:
                return read_signed(data, ring, arch, repository, location)

            found.append(get_checked(source, location, limit=_INDEX_LIMIT, check=verified))
        return tuple(found)

    def _freshness(self, before: Lock | None) -> Freshness:
        note = self.paths.cache / "accepted" / f"{self.channel.name}.json"
        return Freshness(note, before.indexes if before else {})

    def _check_fresh(
        self, indexes: Iterable[SignedIndex], before: Lock | None, progress: Progress, *, accept_older: bool
    ) -> None:
        freshness = self._freshness(before)
        hint = (
            "name another mirror; or, if you know why it is older, take it, and with it packages that lack later repairs: "
            f"{lockfile.lock_command(self.channel)} older-index=accept"
        )
        for index in indexes:
            freshness.check(index, hint=hint, accept_older=accept_older)
            if age_in_days(index) > self.settings.warn_after_days:
                progress.say(
                    f"{index.title}: made {day(index.file.made)}, {age_in_days(index)} days ago; is the mirror still updated?"
                )

    def _solve(self, arch: str, indexes: tuple[SignedIndex, ...], worlds: Iterable[frozenset[str]]) -> list[Solution]:
        """Solve each world by itself. Raises FactoryError that says why one has no solution."""
        from pipeline.apk.solver.errors import UnsolvableError
        from pipeline.apk.solver.file_cache import FileCache
        from pipeline.apk.solver.pool import IndexFile
        from pipeline.apk.solver.solve import Solver, generation_of

        keys = self.trust.files([arch])
        files = [IndexFile(f"{index.file.name}/{arch}", index.data) for index in indexes]
        # Only the third apk reads the third format.
        generation = max(generation_of(self.channel.branch), self.settings.apk_format)
        solver = Solver.load(files, keys, arch, FileCache(_NOWHERE), generation=generation)
        solutions: list[Solution] = []
        for world in worlds:
            try:
                solutions += [solver.solve(sorted(world))] if world else []
            except UnsolvableError as error:
                what = f"{self.channel.name}: a world for {arch} cannot be had"
                hint = error.hint or f"its packages: {', '.join(sorted(world))}"
                raise UnsolvableError(f"{what}: {error.message}", hint=hint) from error
        return solutions

    def _lock_packages(
        self, arch: str, wanted: Iterable[Wanted], known: list[LockedFile], progress: Progress
    ) -> tuple[LockedFile, ...]:
        source = self._source
        return lock_packages(wanted, known, vault=self.vault, ring=self.trust.ring(arch), source=source, progress=progress)

    def _media(self, main: SignedIndex, progress: Progress) -> tuple[LockedFile, ...]:
        """Return the mini root, further media, and the scripts of aports."""
        source = self._source
        found = []
        for arch in self.channel.architectures:
            flavors = [*self.settings.media.get(arch, ())]
            flavors += [self.settings.minirootfs] if arch in self._builder_archs else []
            where = f"{self.channel.branch}/releases/{arch}/{LIST}"
            rows = self._releases(source, where) if flavors else ()
            found += [find_medium(rows, flavor, arch, self.channel.branch, where) for flavor in flavors]
        ref = aports.ref_of(main.file.version)
        progress.say(f"{self.channel.name}: scripts of aports at {ref}")
        found.append(aports.lock_scripts(ref, self.vault, self._aports_source))
        return tuple(sorted(found))

    def _releases(self, source: Mirrors, where: str) -> tuple[Mapping[str, str], ...]:
        return get_checked(source, where, limit=_LIST_LIMIT, check=lambda data: read_list(data.decode(errors="replace"), where))

    # --- downloads ------------------------------------------------------------------------------------------

    def fetch(self, lock: Lock, progress: Progress) -> None:
        """Bring everything that the lock names into the vault. Raises LockError."""
        if self.mirror is not None and self._mirrored(lock):
            self.mirror.make(progress)
        self._shop.tidy()
        for index in self.vault.missing(file for files in lock.indexes.values() for file in files):
            self._fetch_index(index)
        plain = [file for table in (*lock.packages.values(), *lock.builders) for file in table]
        plain += [file for file in lock.media if not aports.is_scripts(file)]
        fetch(plain, self.vault, self._source, progress, title=f"files of {self.channel.name}")
        aports.fetch_scripts(aports.find_scripts(lock.media), self.vault, self._aports_source)
        for arch, wheels in lock.wheels.items():
            if self.vault.missing(wheels) and self._resolve_wheels(arch, lock.packages[arch], progress) != wheels:
                raise LockError(
                    f"wheels for {arch}: differ from those of the lock", hint=f"run: {lockfile.lock_command(self.channel)}"
                )

    def _mirrored(self, lock: Lock) -> list[LockedFile]:
        """Return the files that a lock takes from the channel's mirror and that are missing."""
        tables = (*lock.indexes.values(), *lock.packages.values(), *lock.builders, lock.media)
        return self.vault.missing(file for table in tables for file in table)

    def _fetch_index(self, file: LockedFile) -> None:
        def same(data: bytes) -> bytes:
            if digest_bytes(data) != file.sha256:
                raise VanishedError(
                    f"{file.location}: the mirror has another index than the one of {day(file.made)} that the lock names",
                    hint=vanished_hint(self.channel),
                )
            return data

        self.vault.put(get_checked(self._source, file.location, limit=_INDEX_LIMIT, check=same))

    # --- repository -----------------------------------------------------------------------------------------

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        """Return code, indexes, packages and the keys that vouch for them."""
        return {
            "code": code_digest("pipeline.channels.alpine.repository"),
            "branch": self.channel.branch,
            "indexes": [[file.location, file.sha256] for file in lock.indexes[arch]],
            "packages": [[file.location, file.sha256] for file in lock.packages[arch]],
            "keys": {name: digest_bytes(pem) for name, pem in self.trust.files([arch]).items()},
        }

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        """Write Alpine's indexes and the locked packages; every signature is verified once more."""
        ring = self.trust.ring(arch)
        indexes = locked_indexes(lock.indexes[arch], arch, self.vault, ring)
        lay_repository(lock.packages[arch], indexes, output / self.channel.branch, vault=self.vault, ring=ring, log=log)

    # --- builder --------------------------------------------------------------------------------------------

    @property
    def _builder_archs(self) -> tuple[str, ...]:
        return (self.channel.builder_arch, *self.channel.native_builders)

    def _builder_world(self, arch: str) -> tuple[str, ...]:
        return tuple(sorted(builder_worlds(self.channel, self.settings).get(arch, frozenset())))

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        """Return the digest that names the builder: mini root, packages, world."""
        return self._builder_plan(lock, arch).key()

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        """Return the image's ID; the mini root's apk makes the image if the engine does not have it."""
        from pipeline.channels.alpine.builder import make_root
        from pipeline.sandbox.channel_images import Known, ensure_builder

        plan = self._builder_plan(lock, arch)

        def make(tar: Path, folder: Path) -> None:
            ring = self.trust.ring(arch)
            indexes = locked_indexes(lock.indexes[arch], arch, self.vault, ring)
            make_root(plan, indexes, tar, vault=self.vault, ring=ring, engine=engine, known=known, scratch=folder, log=log)

        known, scratch = Known(self.paths.cache / "engine-images", self.report), self.home / "tmp"
        return ensure_builder(engine, plan.key(), channel=plan.channel, arch=arch, known=known, scratch=scratch, make=make)

    def _builder_plan(self, lock: Lock, arch: str) -> BuilderPlan:
        from pipeline.channels.alpine.builder import BuilderPlan

        name = f"{self.settings.minirootfs}-{arch}"
        minirootfs = next((file for file in lock.media if file.name == name), None)
        if minirootfs is None:
            raise LockError(f"the lock has no {name}", hint=f"run: {lockfile.lock_command(self.channel)}")
        return BuilderPlan(
            channel=self.channel.name,
            arch=arch,
            branch=self.channel.branch,
            epoch=self.channel.epoch,
            world=self._builder_world(arch),
            minirootfs=minirootfs,
            indexes=lock.indexes[arch],
            packages=lock.builder if arch == self.channel.builder_arch else lock.native_builders.get(arch, ()),
            keys=self.trust.files([arch]),
        )

    # --- wheels ---------------------------------------------------------------------------------------------

    @property
    def requirements(self) -> Path:
        """The Python packages that the runtime needs, by hash."""
        return self.paths.checkout / "runtime" / "requirements.lock"

    @cached_property
    def _shop(self) -> WheelShop:
        return WheelShop(self._downloads, self.paths.cache / "wheel-sets")

    def _resolve_wheels(self, arch: str, packages: Iterable[LockedFile], progress: Progress) -> tuple[LockedFile, ...]:
        """Return wheels for the Python of the architecture's packages; none if there is no Python."""
        version = next((file.version for file in packages if file.name == "python3"), "")
        if not version:
            return ()
        python = ".".join(version.split(".")[:2])
        return self._shop.resolve(WheelSet(self.requirements, python, arch, self.settings.wheels), progress)

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        """Return the locked wheels."""
        return [[wheel.location, wheel.sha256] for wheel in lock.wheels[arch]]

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        """Copy the locked wheels out of the vault."""
        self._shop.copy(lock.wheels[arch], output)

    # --- keys, aports ---------------------------------------------------------------------------------------

    def keys(self) -> Mapping[str, bytes]:
        """Return the keys that may sign packages for our architectures, and the key that signs our own."""
        return {**self.trust.files(self.channel.architectures), self.key.name: self.key.public_pem()}

    def signing_key(self) -> tuple[str, bytes, bytes]:
        """Return the checkout's key."""
        return self.key.name, read_regular(self.key.private), self.key.public_pem()

    def aports(self) -> Path:
        """Return the folder of the locked scripts, unpacked."""
        lock = lockfile.read(lockfile.lock_path(self.paths, self.channel), self.channel)
        return aports.unpack(aports.find_scripts(lock.media), self.vault, self.home, self.report)
