# SPDX-License-Identifier: Apache-2.0
"""The lab's mirror: a folder in the shape of Alpine's own mirrors, made on the spot, which any channel's driver can read.

    <branch>/main/<arch>/APKINDEX.tar.gz, *.apk         packages and their index, signed by the lab's key
                                                        (in format 3, if it is asked for: Packages.adb, *.apk)
    <branch>/releases/<arch>/latest-releases.yaml       and the mini root that it names
    aports/<commit>/aports-<commit>.tar.gz              an archive with scripts/mkimage.sh

Packages come from three places: Alpine's own out of the pinned wheels (`repack`), Debian's, converted (`repository`), and
the few of the tables that are neither. All is made from a lock of its own, of Debian's packages; equal locks, tables and
keys give equal bytes, and a mirror that is there whole is not made again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from tower.base.jsontext import parse_json
from tower.base.regular import open_regular, read_regular

from pipeline.apk.format.index import IndexEntry, package_entry, write_index
from pipeline.apk.format.package import read_package, sign_package
from pipeline.apk.format.signature import Signer
from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_file, digest_json, digest_tree
from pipeline.base.code_digest import code_digest
from pipeline.base.errors import FetchError, LockError, StoreError, VerifyError
from pipeline.base.filelock import locked
from pipeline.base.files import write_file
from pipeline.base.paths import Paths
from pipeline.base.progress import Progress
from pipeline.base.recorded import Recorded
from pipeline.base.scratch import sweep, temporary_folder
from pipeline.channels.alpine.settings import MirrorSettings
from pipeline.channels.lab.alpine_wheel import LOCK, base_wheels, not_there
from pipeline.channels.lab.apt import Apt, Suite
from pipeline.channels.lab.assemble import claimed
from pipeline.channels.lab.catalog import Catalog, Definition, read_catalog
from pipeline.channels.lab.conversions import Workshop, check_needs, convert_all, plan_jobs
from pipeline.channels.lab.debian import SETTING, find_mirror
from pipeline.channels.lab.repack import Repacked, Repacker
from pipeline.channels.lab.superseded import remove_superseded
from pipeline.channels.lab.third import write_third_repository
from pipeline.config.channel import Channel
from pipeline.supply import lockfile
from pipeline.supply.fetch import Mirrors, fetch
from pipeline.supply.lock import Lock, LockedFile
from pipeline.supply.lockfile import lock_command
from pipeline.supply.signing import CheckoutKey, checkout_key
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelShop

REPOSITORY: Final = "main"
_ROUNDS: Final = 10
_RECORD: Final = "mirror.json"


class LabMirror:
    """Makes the mirror for `worlds`: by architecture, all names that roots of the channel may need."""

    def __init__(
        self,
        channel: Channel,
        settings: MirrorSettings,
        worlds: Mapping[str, frozenset[str]],
        paths: Paths,
        *,
        apk_format: int = 2,
    ) -> None:
        self.channel = channel
        self.settings = settings
        self.worlds = worlds
        self.paths = paths
        self.apk_format = apk_format
        self._vault = Vault(paths.cache / "vault")

    @cached_property
    def key(self) -> CheckoutKey:
        """The key, made once for this checkout; only the devices of its lab trust it."""
        return checkout_key(self.home / "keys", "lab")

    @property
    def home(self) -> Path:
        """The folder that the channel generates in this checkout."""
        return self.paths.channel(self.channel.name)

    @property
    def folder(self) -> Path:
        """The folder of the mirror."""
        return self.home / "mirror"

    @cached_property
    def _tables(self) -> Catalog:
        return read_catalog()

    # --- inputs -------------------------------------------------------------------------------

    def asked(self) -> Digest:
        """Return the digest of everything that decides which Debian packages are needed: cheap, and without a network."""
        tables = self._tables
        return digest_json(
            {
                "worlds": {arch: list[JsonValue](sorted(names)) for arch, names in self.worlds.items()},
                "folders": {name: _asked(item) for name, item in tables.folders.items()},
                "names": {name: list(debs) for name, debs in tables.names.items()},
                "ignored": list(tables.ignored),
                "left_out": list(tables.left_out),
                "suite": [self.settings.suite, *self.settings.components],
                "base": digest_file(LOCK),
            }
        )

    def inputs(self) -> Digest:
        """Return the digest of the mirror's inputs, except the versions of Debian's packages."""
        sources = sorted({source for item in self._tables.folders.values() for source in item.sources.values()})
        return digest_json(
            {
                "asked": self.asked(),
                "code": code_digest("pipeline.channels.lab.mirror"),
                "tables": self._tables.digest,
                "sources": {source: digest_tree(self.paths.checkout / source) for source in sources},
                "aports": digest_tree(self._aports),
                "branch": self.channel.branch,
                "epoch": self.channel.epoch,
                "key": digest_bytes(self.key.public_pem()),
                **({"format": self.apk_format} if self.apk_format > 2 else {}),
            }
        )

    @property
    def _aports(self) -> Path:
        return Path(__file__).parent / "aports"

    @property
    def _lock_path(self) -> Path:
        return self.home / "supply.lock.json"

    def debian(self) -> Lock:
        """Return the lock that the mirror was made from: Debian's packages, and the wheels of the base.

        Raises LockError if there is none that fits the present worlds and tables.
        """
        found = lockfile.read(self._lock_path, self.channel)
        if found.made_from != self.asked():
            raise LockError(f"{self._lock_path.name}: made for other worlds or tables", hint=f"run: {lock_command(self.channel)}")
        return found

    # --- making it ------------------------------------------------------------------------------------------

    def make(self, progress: Progress, *, renew: bool = False) -> Path:
        """Return the mirror's folder; make it if it is not complete, with `renew` from Debian's present packages.

        Needs a network for Debian's indexes and for files that are not in the vault yet. Raises LockError, FetchError,
        VerifyError, ConfigError or StoreError.
        """
        with locked(self.home / "mirror.guard", on_wait=lambda: progress.say("lab: another build is making the mirror; waiting")):
            wheels, base = self._base(progress)
            catalog = replace(self._tables, base=base[self.channel.builder_arch].names)
            try:
                supply = self._resolve(catalog, wheels, progress) if renew else self.debian()
            except LockError:
                if renew:
                    raise
                supply = self._resolve(catalog, wheels, progress)
            key = digest_json({"inputs": self.inputs(), "supply": supply.digest})
            # A build that was killed may have left a mirror there, as large as this one, though this one is whole.
            sweep(self.home, "mirror")
            if not self._is_whole(key, progress):
                self._fetch(supply, progress)
                self._lay(key, base, catalog, supply, progress)
        return self.folder

    def _base(self, progress: Progress) -> tuple[dict[str, tuple[LockedFile, ...]], dict[str, Repacked]]:
        """Return the wheels and the packages made from them, by architecture."""
        shop = WheelShop(self._vault, self.paths.cache / "wheel-sets")
        repacker = Repacker(self._vault, self.home / "base", self.channel.epoch, progress.say)

        try:
            wheels = {arch: shop.resolve(base_wheels(arch), progress) for arch in self.channel.architectures}
        except FetchError as error:
            raise not_there(error) from error
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda arch: repacker.packages(wheels[arch][0], arch), wheels)
            return wheels, dict(zip(wheels, made, strict=True))

    def _resolve(self, catalog: Catalog, wheels: Mapping[str, tuple[LockedFile, ...]], progress: Progress) -> Lock:
        """Let apt find all Debian packages for the worlds (uses the network for the indexes, or earlier ones without it)."""
        suite = Suite(find_mirror(self.settings.debian), self.settings.suite, self.settings.components)
        packages = {}
        for arch in self.channel.architectures:
            apt = Apt(self.paths.cache / "apt", suite, arch)
            progress.say(f"lab: indexes of {suite.name} for {arch} from {suite.mirror}")
            apt.update(progress)
            packages[arch] = _closure(catalog, apt, self.worlds[arch])
        made = Lock(self.channel.name, self.asked(), packages, builder=(), wheels=wheels, notes={"suite": suite.name})
        write_file(self._lock_path, lockfile.render(made).encode())
        return made

    def _fetch(self, supply: Lock, progress: Progress) -> None:
        wanted = [deb for debs in supply.packages.values() for deb in debs]
        if self._vault.missing(wanted):
            unreachable = f"check the network; files that were fetched are kept (another mirror: {SETTING})"
            source = Mirrors((find_mirror(self.settings.debian),), unreachable=unreachable)
            fetch(wanted, self._vault, source, progress, title="Debian packages")

    def _is_whole(self, key: Digest, progress: Progress) -> bool:
        """Tell whether the mirror is that of `key`, with each file unchanged; a changed one is reported."""
        try:
            record = parse_json(read_regular(self.folder / _RECORD))
            if record["key"] != key:
                return False
            files = {str(name): (int(size), str(sha256)) for name, (size, sha256) in record["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            held = pool.map(lambda name: _holds(self.folder / name, *files[name]), files)
            odd = next((name for name, holds in zip(files, held, strict=True) if not holds), "")
        if odd:
            progress.say(f"{self.folder / odd}: was changed since it was made; the mirror is made again")
        return not odd

    def _lay(self, key: Digest, base: Mapping[str, Repacked], catalog: Catalog, supply: Lock, progress: Progress) -> None:
        shop = Workshop(self.paths.checkout, self._vault, self.home / "apk", self.channel.epoch, progress.say)
        description = f"v{base[self.channel.builder_arch].version}-0-g{self._commit}"
        try:
            with temporary_folder("mirror", self.home) as scratch:
                new = scratch / "new"
                jobs = {
                    arch: plan_jobs(shop, catalog, supply.packages[arch], self.worlds[arch], arch)
                    for arch in self.channel.architectures
                }
                unsigned = convert_all(shop, [job for some in jobs.values() for job in some], progress)
                for arch, system in base.items():
                    packages = dict(system.packages)
                    packages |= {f"{job.product.name}-{job.version}.apk": unsigned[job.product.name, arch] for job in jobs[arch]}
                    folder = new / self.channel.branch / REPOSITORY / arch
                    write = write_third_repository if self.apk_format > 2 else write_repository
                    write(packages, folder, arch, signer=self.key.signer(), epoch=self.channel.epoch, title=description)
                    _lay_release(new / self.channel.branch / "releases" / arch, self.channel.branch, arch, system)
                _lay_aports(new / "aports" / self._commit, self._aports, self._commit, self.channel.epoch)
                made = [path for path in sorted(new.rglob("*")) if path.is_file()]
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    sums = pool.map(digest_file, made)
                    files = {
                        str(path.relative_to(new)): [path.stat().st_size, sha256] for path, sha256 in zip(made, sums, strict=True)
                    }
                write_file(new / _RECORD, json.dumps({"key": key, "files": files}, indent=1).encode())
                if self.folder.exists():
                    self.folder.rename(scratch / "old")
                new.rename(self.folder)
                self.__dict__.pop("_names", None)
        except VerifyError:
            # Remove a download that was damaged after it was verified: the next run fetches it again.
            for deb in (deb for debs in supply.packages.values() for deb in debs):
                self._vault.recheck(deb)
            raise
        except OSError as error:
            raise StoreError(
                f"{self.home}: {error.strerror or error}", hint="make room on the disk, then run it again"
            ) from error

    def find(self, digest: Digest) -> Path | None:
        """Return the file whose content has this SHA-256, as noted when the mirror was made."""
        name = self._names.get(digest)
        path = self.folder / name if name else None
        return path if path is not None and path.is_file() else None

    @cached_property
    def _names(self) -> dict[str, str]:
        try:
            record = parse_json(read_regular(self.folder / _RECORD))
            return {sha256: name for name, (_, sha256) in record["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def remove_superseded(self) -> tuple[int, int]:
        """Remove conversions that were made again since; return their number, and their bytes on the disk."""
        return remove_superseded(self.home / "apk")

    @cached_property
    def _commit(self) -> str:
        """Return a substitute for the commit of aports: 40 digits that depend on the scripts' content."""
        return digest_tree(self._aports)[:40]


def _holds(path: Path, size: int, sha256: str) -> bool:
    try:
        with open_regular(path, follow=False) as stream:
            return os.fstat(stream.fileno()).st_size == size and hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _asked(definition: Definition) -> JsonValue:
    """Return the parts of a folder that decide which Debian packages are needed."""
    return [list(definition.debs), list(definition.arch), list(definition.depends), list(definition.stands_for)]


def _closure(catalog: Catalog, apt: Apt, wanted: frozenset[str]) -> tuple[LockedFile, ...]:
    """Return all Debian packages for a world, also those for folders whose files came in as dependencies."""
    world = wanted
    for _ in range(_ROUNDS):
        debs = catalog.expand(world, apt.arch)[1]
        # What a folder is made of is wanted, though for all others something stands in its place.
        found = tuple(deb for deb in apt.closure(debs, catalog.standing - debs) if deb.name not in catalog.left_out)
        more = world | claimed(catalog, {deb.name: deb for deb in found}, world, apt.arch)
        if more == world:
            return found
        world = more
    raise LockError(f"lab ({apt.arch}): the tables need more and more packages", hint="look at pipeline/channels/lab/packages")


def write_repository(
    packages: Mapping[str, Recorded], folder: Path, arch: str, *, signer: Signer, epoch: int, title: str
) -> None:
    """Sign `packages` (file name -> unsigned file) into `folder` and write the signed index, described by `title`.

    Raises ConfigError if nothing provides a dependency.
    """
    folder.mkdir(parents=True)

    def one(name: str) -> IndexEntry:
        target = folder / name
        with packages[name].opened() as source, target.open("wb") as out:
            sign_package(source, out, signer)
        # Its data was verified when it was signed: only the head is read again.
        with target.open("rb") as stream:
            package = read_package(stream, None, name=name)
        return package_entry(package, target.stat().st_size, arch=arch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = list(pool.map(one, packages))
    check_needs(entries)
    with (folder / "APKINDEX.tar.gz").open("wb") as out:
        write_index(out, title, entries, signer, epoch)


def _lay_release(folder: Path, branch: str, arch: str, system: Repacked) -> None:
    """Write the mini root, and the list that names it."""
    folder.mkdir(parents=True)
    name = f"alpine-minirootfs-{system.version}-{arch}.tar.gz"
    with system.minirootfs.opened() as source, (folder / name).open("wb") as out:
        shutil.copyfileobj(source, out)
    row = {
        "title": "Mini root filesystem",
        "branch": branch,
        "arch": arch,
        "version": system.version,
        "flavor": "alpine-minirootfs",
        "file": name,
        "sha256": digest_file(folder / name),
        "size": str((folder / name).stat().st_size),
    }
    lines = [f"  {key}: {json.dumps(value)}" if " " in value else f"  {key}: {value}" for key, value in row.items()]
    (folder / "latest-releases.yaml").write_text("---\n-\n" + "".join(f"{line}\n" for line in lines))


def _lay_aports(folder: Path, scripts: Path, commit: str, epoch: int) -> None:
    """Write the archive in the form of aports' server: one top folder, and the commit in a pax header."""
    folder.mkdir(parents=True)
    top = f"aports-{commit}-scripts"
    with (
        (folder / f"aports-{commit}.tar.gz").open("wb") as out,
        gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": commit}) as target,
    ):
        for path in sorted((scripts / "scripts").iterdir()):
            info = tarfile.TarInfo(f"{top}/scripts/{path.name}")
            data = path.read_bytes()
            info.size, info.mtime, info.mode = len(data), epoch, 0o755 if path.stat().st_mode & 0o100 else 0o644
            target.addfile(info, io.BytesIO(data))
