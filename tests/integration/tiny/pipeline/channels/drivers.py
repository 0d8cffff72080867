# SPDX-License-Identifier: Apache-2.0
"""Takes the place of the module of drivers: a channel without packages, whose builder is busybox alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_json
from pipeline.base.paths import Paths
from pipeline.base.progress import Progress
from pipeline.channels.driver import ChannelDriver
from pipeline.config.channel import Channel
from pipeline.sandbox.engine import LOCAL_IMAGES, Engine
from pipeline.supply.lock import Lock, Worlds
from pipeline.supply.vault import Vault

_BUSYBOX = Path("/bin/busybox")
_APPLETS = ("cat", "cp", "dd", "kill", "ln", "ls", "mkdir", "mkfifo", "sh", "sleep", "sync", "touch", "true")


class TinyDriver:
    """What pipeline.config.channel.ChannelDriver asks for, with nothing in it."""

    mirror = None
    report: Callable[[str], None]

    def __init__(self, channel: Channel, paths: Paths) -> None:
        self.channel = channel
        self.paths = paths
        self.vault = Vault(paths.cache / "vault")

    def lock_key(self) -> Digest:
        return digest_json({"channel": self.channel.name})

    def lock(self, progress: Progress, *, renew: bool = False, accept_older: bool = False) -> Lock:
        return Lock(channel=self.channel.name, made_from=self.lock_key(), packages={}, builder=())

    def fetch(self, lock: Lock, progress: Progress) -> None:
        return

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        return digest_json({"busybox": digest_bytes(_BUSYBOX.read_bytes()), "applets": list(_APPLETS)})

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        # Of this checkout alone: other tests, and other runs of them, remove theirs at any time.
        tag = f"{LOCAL_IMAGES}tower-tiny:{self.builder_key(lock, arch)[:16]}-{engine.checkout[:16]}"
        found = engine.find_image(tag)
        return str(found["Id"]) if found is not None else engine.import_image([_root()], tag)

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        return {"arch": arch}

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        (output / "empty").touch()

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        return {"arch": arch}

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        (output / "empty").touch()

    def keys(self) -> Mapping[str, bytes]:
        return {"tiny.rsa.pub": b"public\n"}

    def signing_key(self) -> tuple[str, bytes, bytes]:
        return "tiny.rsa.pub", b"private\n", b"public\n"

    def aports(self) -> Path:
        return self.paths.checkout / "text"


def open_driver(channel: Channel, worlds: Worlds, paths: Paths) -> ChannelDriver:
    return TinyDriver(channel, paths)


def _root() -> bytes:
    """A root file system of busybox, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "in", "out", "proc", "run", "src", "stage", "stagelib", "sys", "tmp", "work"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.size, program.mode = _BUSYBOX.stat().st_size, 0o755
        with _BUSYBOX.open("rb") as stream:
            tar.addfile(program, stream)
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()
