# SPDX-License-Identifier: Apache-2.0
"""The builder of Alpine's channel: the locked mini root's own apk installs the builder's world from locked packages.

The mini root is only the tool: it is imported and runs once without a network. Its output becomes the builder, after it
was compared with the signed packages and put into a canonical form, so that equal locks give equal bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.apk.format.signature import KeyRing
from pipeline.base.canonical import Digest, digest_bytes, digest_json
from pipeline.base.code_digest import code_digest
from pipeline.channels.alpine.indexes import SignedIndex
from pipeline.channels.alpine.repository import lay_repository
from pipeline.channels.alpine.vouched import check_root
from pipeline.sandbox.channel_images import Known, ensure_image
from pipeline.sandbox.rootform import one_form
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine

_SCRIPT = Path(__file__).with_name("root.sh")
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT")
_SECONDS = 1800
# Files that differ in every run, or that only a running system needs.
_LEFT_OUT = (
    "dev/",
    "proc/",
    "sys/",
    "run/",
    "tmp/",
    "var/cache/",
    "var/log/",
    "etc/resolv.conf",
    "lib/apk/db/lock",
    "usr/lib/apk/db/lock",
)
_FOLDERS = {"dev": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777, "var/cache": 0o755, "var/log": 0o755}


@dataclass(frozen=True, slots=True)
class BuilderPlan:
    """The inputs of a builder."""

    channel: str
    arch: str
    branch: str
    epoch: int
    world: tuple[str, ...]
    minirootfs: LockedFile
    indexes: tuple[LockedFile, ...]
    packages: tuple[LockedFile, ...]
    keys: Mapping[str, bytes]

    def key(self) -> Digest:
        """Return the key of the builder's content, before it is built."""
        return digest_json(
            {
                "code": code_digest("pipeline.channels.alpine.builder"),
                "script": digest_bytes(_SCRIPT.read_bytes()),
                "channel": self.channel,
                "arch": self.arch,
                "branch": self.branch,
                "epoch": self.epoch,
                "world": list(self.world),
                "minirootfs": self.minirootfs.sha256,
                "indexes": [[index.location, index.sha256] for index in self.indexes],
                "packages": [[package.location, package.sha256] for package in self.packages],
                "keys": {name: digest_bytes(pem) for name, pem in self.keys.items()},
            }
        )


def is_left_out(path: str) -> bool:
    """Tell whether a path is left out of the builder's root."""
    return path.startswith(_LEFT_OUT)


def make_root(
    plan: BuilderPlan,
    indexes: Mapping[str, SignedIndex],
    output: Path,
    *,
    vault: Vault,
    ring: KeyRing,
    engine: Engine,
    known: Known,
    scratch: Path,
    log: IO[bytes],
) -> None:
    """Write the builder's root as a tar: equal plans give equal bytes. Raises VerifyError."""
    from pipeline.sandbox.spec import Sandbox
    from pipeline.sandbox.stage_run import run_stage
    from pipeline.sandbox.transfer import Input

    repository, made = scratch / "repository", scratch / "out"
    lay_repository(plan.packages, indexes, repository, vault=vault, ring=ring, log=log)
    made.mkdir()
    sandbox = Sandbox(
        name=f"builder of channel {plan.channel}",
        image=base_image(plan, vault=vault, engine=engine, known=known, scratch=scratch),
        argv=("/bin/sh", "/stage/root.sh"),
        epoch=plan.epoch,
        inputs=(
            Input("/in/repository", repository),
            Input("/in/keys", dict(plan.keys)),
            Input("/stage", {_SCRIPT.name: _SCRIPT.read_bytes()}),
        ),
        env={"TOWER_ARCH": plan.arch, "TOWER_WORLD": " ".join(plan.world)},
        capabilities=_CAPABILITIES,
        timeout=_SECONDS,
        architecture=plan.arch,
    )
    with (scratch / "sandbox.log").open("w+b") as said:
        try:
            run_stage(engine, sandbox, outputs=made, declared=("root.tar",), log=said, hint="read the builder's log in build/log")
        finally:
            said.seek(0)
            shutil.copyfileobj(said, log)
    count = check_root(made / "root.tar", sorted(repository.rglob("*.apk")), f"builder of channel {plan.channel}")
    log.write(f"{count} files equal those of the signed packages\n".encode())
    one_form(made / "root.tar", output, plan.epoch, left_out=is_left_out, folders=_FOLDERS)


def base_image(plan: BuilderPlan, *, vault: Vault, engine: Engine, known: Known, scratch: Path) -> str:
    """Return the locked mini root as an image, imported if the engine does not have it."""

    def archive() -> Path:
        copied = scratch / "minirootfs.tar.gz"
        vault.copy(plan.minirootfs, copied)
        return copied

    return ensure_image(
        engine, "minirootfs", plan.minirootfs.sha256, channel=plan.channel, arch=plan.arch, known=known, make=archive
    )
