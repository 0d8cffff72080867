# SPDX-License-Identifier: Apache-2.0
"""A small checkout with a channel driver that makes nothing real, for the tests of plan, keys and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.paths import Paths, cache_home
from pipeline.base.progress import Progress, Screen
from pipeline.build.factory import Factory
from pipeline.channels.driver import LocalMirror, report_nothing
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_plan
from pipeline.sandbox.engine import Engine
from pipeline.supply.lock import Choice, Lock, LockedFile
from pipeline.supply.vault import Vault

CHANNEL = """
driver = "lab"
summary = "for tests"
branch = "edge"
epoch = 1000
architectures = ["x86_64", "aarch64"]
builder_arch = "x86_64"
releasable = false
"""

ROOT = """
summary = "Makes a root"
command = ["sh", "/stage/run.sh"]
inputs = ["repository"]
sources = ["overlay"]
outputs = ["root.tar"]
[options.world]
type = "strings"
help = "packages"
[options.size]
type = "integer"
default = 4
"""

PACK = """
summary = "Packs a root"
command = ["sh", "/stage/run.sh"]
inputs = ["root"]
optional_inputs = ["keys"]
outputs = ["image.img*", "image.bmap", "packages.json"]
secrets = ["signing-key"]
[options.compress]
type = "string"
default = "zstd"
"""

HOST = """
image = "host"
summary = "An image"
final = "pack"
[targets.rpi]
arch = "aarch64"
output = "host-{version}-{channel}-rpi.img{suffix}"
[targets.pc]
arch = "x86_64"
output = "host-{version}-{channel}-pc.img{suffix}"
[worlds]
base = ["busybox", "apk-tools"]
pi = ["firmware"]
[[stages]]
name = "root"
per_target = true
options = { world = ["@world:base"] }
target_options.rpi = { world = ["@world:base", "@world:pi"] }
inputs = { repository = "channel:repository" }
[[stages]]
name = "pack"
per_target = true
options = { compress = "@compress" }
inputs = { root = "stage:root", keys = "channel:keys" }
"""


def write(root: Path, files: Mapping[str, str]) -> None:
    """Lay files into a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def make_checkout(root: Path) -> Paths:
    """A checkout with one recipe of two stages for two targets."""
    write(
        root,
        {
            "pyproject.toml": '[project]\nname = "tower"\nversion = "1.2"\n',
            "pipeline/channels/lab.toml": CHANNEL,
            "pipeline/recipes/host.toml": HOST,
            "stages/root/stage.toml": ROOT,
            "stages/root/run.sh": "true\n",
            "stages/pack/stage.toml": PACK,
            "stages/pack/run.sh": "true\n",
            "stages/lib/stage.sh": "set -eu\n",
            "overlay/etc/motd": "hello\n",
            "overlay/etc/issue": "issue\n",
            "dist/.keep": "",
        },
    )
    return Paths(root)


@dataclass
class Driver:
    """A channel whose parts are decided by the test."""

    locked: tuple[LockedFile, ...] = (LockedFile("busybox", "1-r0", Digest("a" * 64), 10),)
    choices: tuple[Choice, ...] = ()
    wanted: str = "worlds"
    public: bytes = b"public\n"
    repository_text: str = "index\n"
    calls: list[str] = field(default_factory=list)
    report: Callable[[str], None] = report_nothing
    mirror: LocalMirror | None = None

    @property
    def vault(self) -> Vault:
        return Vault(cache_home() / "tower" / "vault")

    def lock_key(self) -> Digest:
        return digest_json(self.wanted)

    def lock(self, progress: Progress, *, renew: bool = False, accept_older: bool = False) -> Lock:
        self.calls.append("lock")
        return Lock(
            "lab", self.lock_key(), {"x86_64": self.locked, "aarch64": self.locked}, self.locked, choices={"x86_64": self.choices}
        )

    def fetch(self, lock: Lock, progress: Progress) -> None:
        self.calls.append("fetch")

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        return digest_json(["builder", arch, [row.version for row in lock.builder]])

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        raise AssertionError("no container in these tests")

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        return {
            "text": self.repository_text,
            "arch": arch,
            "packages": [{"name": row.name, "version": row.version} for row in lock.packages[arch]],
        }

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        self.calls.append(f"repository {arch}")
        packages = {f"lab/main/{arch}/{name}-1.apk": f"{name} for {arch}" for name in ("a", "b")}
        write(output, {f"lab/main/{arch}/APKINDEX.tar.gz": self.repository_text, **packages})

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        return {}

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        write(output, {"a.whl": ""})

    def keys(self) -> Mapping[str, bytes]:
        return {"lab.rsa.pub": self.public}

    def signing_key(self) -> tuple[str, bytes, bytes]:
        return "lab.rsa.pub", b"private\n", self.public

    def aports(self) -> Path:
        raise AssertionError("not used in this recipe")


def make_factory(paths: Paths, driver: Driver, settings: Settings | None = None) -> Factory:
    """A factory whose driver is the test's, with a lock."""
    factory = Factory(load_plan(paths, settings or Settings()), paths, Screen(quiet=True))
    factory.__dict__["driver"] = driver
    factory.make_lock(again=False)
    return factory


def put(factory: Factory, name: str, files: Mapping[str, str]) -> None:
    """Put an artifact of the stage instance `name` into the store, as if its stage had run."""
    node = factory.plan.nodes[name]
    keyed = factory.keys.of(node)
    with factory.store.building(keyed.key, keyed.document) as work:
        if work.existing is None:
            write(work.path, files)
            work.commit(1.0)
    assert factory.find(node) is not None
