# SPDX-License-Identifier: Apache-2.0
"""A small Alpine for tests: signed indexes and packages, a list of releases and an archive of aports, on a mirror."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.apk.adb.writer import convert_package
from pipeline.apk.adb.writer import write_index as write_third_index
from pipeline.apk.format.index import IndexEntry, package_entry, write_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.base.canonical import digest_bytes
from pipeline.base.paths import Paths
from pipeline.channels.alpine.driver import AlpineDriver
from pipeline.channels.alpine.settings import INDEX_FILES, read_settings
from pipeline.config.channel import Channel
from pipeline.supply.lock import Worlds
from pipeline.supply.trust import fingerprint
from tests.unit.apk.forge import item, package
from tests.unit.mirror import Mirror

BRANCH = "v9.9"
ARCHES = ("x86_64", "aarch64")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MADE = 1_700_000_000
MKIMAGE = b"#!/bin/sh\necho mkimage\n"


@dataclass
class Upstream:
    """What the mirror serves; `publish` signs and lays it there anew."""

    mirror: Mirror
    keys: Path
    signers: dict[str, Signer]
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """By repository and architecture: packages by file name."""
    made: int = MADE
    description: str = f"v9.9.1-7-g{COMMIT[:11]}"
    third: bool = False
    """Packages and indexes are of format 3, where the time of an index is that of the latest build in it."""

    def add(self, repository: str, name: str, version: str = "1.0-r0", arch: str = "", text: str = "", **fields: str) -> None:
        """Put a package into a repository, of one architecture or of all; `listed` is the one in the index, if another."""
        listed = fields.pop("listed", "")
        for one in (arch,) if arch else ARCHES:
            content = [item(f"usr/bin/{name}", f"{name} {version} {text}\n".encode())]
            signer = self.signers[one]
            if self.third:
                fields = {"builddate": str(self.made)} | fields
            made = package(content, signer=signer, pkgname=name, pkgver=version, arch=listed or one, **fields)  # type: ignore[arg-type]  # names of fields
            if self.third:
                made = as_third(made, signer)
            self.files.setdefault((repository, one), {})[f"{name}-{version}.apk"] = made

    def remove(self, repository: str, file: str) -> None:
        """Take a package out of a repository."""
        for arch in ARCHES:
            del self.files[repository, arch][file]

    def publish(self) -> None:
        """Serve what there is now, and nothing that there was before."""
        self.mirror.files.clear()
        for (repository, arch), files in self.files.items():
            base = f"/{BRANCH}/{repository}/{arch}"
            for name, data in files.items():
                folder = base if self._listed(data, arch) == arch else f"/{BRANCH}/{repository}/noarch"
                self.mirror.files[f"{folder}/{name}"] = data
            self.mirror.files[f"{base}/{INDEX_FILES[3 if self.third else 2]}"] = self.index(repository, arch)
        for arch in ARCHES:
            self.release(arch)
        data = archive({"scripts/mkimage.sh": MKIMAGE, "scripts/mkimg.base.sh": b"# base\n"})
        self.mirror.files[f"/aports/{COMMIT[:11]}/aports-{COMMIT[:11]}.tar.gz"] = data

    def index(self, repository: str, arch: str, signer: Signer | None = None) -> bytes:
        """A signed index of what is in a repository."""
        out = io.BytesIO()
        entries = [entry(data, self._listed(data, arch)) for data in self.files[repository, arch].values()]
        if self.third:
            write_third_index(out, self.description, entries, signer or self.signers[arch])
        else:
            write_index(out, self.description, entries, signer or self.signers[arch], self.made)
        return out.getvalue()

    def _listed(self, data: bytes, arch: str) -> str:
        """The architecture that the index says of a package: in format 3, its own."""
        return read_package(io.BytesIO(data), None).info.arch if self.third else arch

    def release(self, arch: str) -> None:
        """A mini root and boot files, with the list that names them."""
        rows = ""
        for flavor in ("alpine-minirootfs", "alpine-rpi"):
            data = f"{flavor} {arch}\n".encode()
            file = f"{flavor}-9.9.1-{arch}.tar.gz"
            self.mirror.files[f"/{BRANCH}/releases/{arch}/{file}"] = data
            rows += f'-\n  title: "A medium"\n  desc: |\n    Text: of\n    two lines.\n\n  branch: {BRANCH}\n  arch: {arch}\n'
            rows += f"  version: 9.9.1\n  flavor: {flavor}\n  file: {file}\n  size: {len(data)}\n  sha256: {digest_bytes(data)}\n"
        self.mirror.files[f"/{BRANCH}/releases/{arch}/latest-releases.yaml"] = f"---\n{rows}".encode()

    def driver(self, checkout: Path, *mirrors: str, world: str = "app") -> AlpineDriver:
        """The channel's driver for a checkout, with the mirrors given or else this one."""
        addresses = mirrors or (self.mirror.address,)
        return make_driver(checkout, addresses, f"{self.mirror.address}/aports", world, third=self.third)


def as_third(data: bytes, signer: Signer) -> bytes:
    """A package as one of format 3."""
    out = io.BytesIO()
    convert_package(read_package(io.BytesIO(data), None), out, signer, io.BytesIO())
    return out.getvalue()


def entry(data: bytes, arch: str) -> IndexEntry:
    """A package's entry in an index."""
    found = read_package(io.BytesIO(data), None)
    return package_entry(found, found.verify_data(), arch=arch)


def archive(files: dict[str, bytes], comment: str = COMMIT, top: str = "aports-x-scripts") -> bytes:
    """An archive as servers make it of a commit."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": comment}) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(data), 0o755 if name.endswith("mkimage.sh") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue())


def make_keys(folder: Path, names: dict[str, str]) -> dict[str, Signer]:
    """Keys with their table: a key's name -> the architecture that it may sign; the signers by name."""
    signers = {}
    public = folder / "keys" / "alpine"
    public.mkdir(parents=True)
    table = ""
    for name, arch in names.items():
        private, pem = generate_key(folder / "private", name, bits=2048)
        data = pem.read_bytes()
        spki, bits = fingerprint(data, name)
        (public / pem.name).write_bytes(data)
        table += f'[[key]]\nfile = "{pem.name}"\nfile_sha256 = "{hashlib.sha256(data).hexdigest()}"\nspki_sha256 = "{spki}"\n'
        table += f'bits = {bits}\narchitectures = ["{arch}"]\norigin = "a test"\nsecond_source = "none"\n\n'
        signers[name] = Signer(private, pem.name)
    (public / "keys.toml").write_text(table)
    return signers


def make_driver(checkout: Path, mirrors: tuple[str, ...], aports: str, world: str, *, third: bool = False) -> AlpineDriver:
    """A driver of a channel like Alpine's."""
    settings = {
        "mirrors": list(mirrors),
        "repositories": ["main", "community"],
        "aports": [aports],
        "minirootfs": "alpine-minirootfs",
        "media": {"aarch64": ["alpine-rpi"]},
        "builder": ["tool"],
        "warn_after_days": 100_000,
        "libc": "musl",
        **({"apk_format": 3} if third else {}),
    }
    channel = Channel("small", "alpine", "a test", BRANCH, 1000, ARCHES, "x86_64", True, settings, checkout / "small.toml")
    worlds = Worlds(dict.fromkeys(ARCHES, (frozenset(world.split()),)))
    return AlpineDriver(channel, read_settings(channel), worlds, Paths(checkout))
