# SPDX-License-Identifier: Apache-2.0
"""`doit audit:lock`: prove that the lock covers everything in the images.

First, every file of the channel and every package that an image lists is looked up in the lock. Then the images are
built again from nothing, without a network and with a cache that holds only the locked files: a stage that needs
anything else fails, and different output is reported. The builder's image is not made again; its key says that it
was made of locked files.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.apk.format.opened import installed_form
from pipeline.base import proc
from pipeline.base.errors import StageError
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.images.manifest import read_packages
from pipeline.plan.nodes import ChannelNode, is_folder
from pipeline.plan.planner import load_plan
from pipeline.release.reproducible import checkout_files
from pipeline.supply.vault import Vault

if TYPE_CHECKING:
    from pipeline.build.factory import Factory
    from pipeline.build.workplace import Workplace
    from pipeline.plan.nodes import Node
    from pipeline.store.store import Artifact

_PACKAGES = "packages.json"
_SECONDS = 4 * 3600
_TAIL = 30
_NOWHERE = "http://127.0.0.1:9"


@dataclass(slots=True)
class LockAudit:
    """The findings of the audit."""

    lines: list[str] = field(default_factory=list)
    uncovered: int = 0

    def add(self, name: str, faults: list[str], fine: str) -> None:
        """Note the result for one thing: the `faults` that the lock does not cover, or the text `fine`."""
        self.uncovered += len(faults)
        self.lines.append(f"{name}: {f'{len(faults)} not covered' if faults else fine}")
        self.lines.extend(f"  {fault}" for fault in faults)


def audit_lock(factory: Factory, nodes: Mapping[str, Node]) -> LockAudit:
    """Audit `nodes`, which the chosen images are made of, after building those that are missing.

    It takes the factory because it builds. Raises FactoryError if the replay fails.
    """
    report = LockAudit()
    factory.make_lock(again=False)
    factory.fetch()
    for name, node in nodes.items():
        artifact = None if is_folder(node) else factory.need(node).artifact
        if artifact is not None:
            faults = list(_not_locked(factory, artifact)) if isinstance(node, ChannelNode) else list(_strange(factory, artifact))
            report.add(name, faults, f"{len(artifact.outputs)} files")
    replay(factory, nodes, report)
    return report


def _not_locked(place: Workplace, artifact: Artifact) -> Iterator[str]:
    """Yield the files of a channel's artifact that the lock does not name; a channel that converts makes its packages itself."""
    named = {file.sha256 for file in place.lock().files}
    keys = place.driver.keys()
    for path, record in artifact.outputs.items():
        made = not place.plan.channel.releasable and not path.endswith(".whl")
        if record.sha256 not in named and path not in keys and not made:
            yield f"{path}: {record.sha256}"


def _strange(place: Workplace, artifact: Artifact) -> Iterator[str]:
    """Yield packages of an artifact that come neither from the lock nor from a stage of ours."""
    if _PACKAGES not in artifact.outputs:
        return
    locked = {installed_form(file.checksum) for file in place.lock().files if file.checksum}
    ours = {name.partition(".apk")[0] for name in _our_packages(place)}
    for row in read_packages(artifact.file(_PACKAGES), f"artifact {artifact.key[:12]}"):
        title = f"{row['name']}-{row['version']}"
        if locked and row["checksum"] not in locked and title not in ours:
            yield f"{_PACKAGES}: {title} {row['checksum']}"


def _our_packages(place: Workplace) -> Iterator[str]:
    for name, node in place.plan.nodes.items():
        artifact = None if isinstance(node, ChannelNode) else place.find(place.plan.nodes[name])
        yield from (path.rpartition("/")[2] for path in (artifact.outputs if artifact else ()) if path.endswith(".apk"))


# --- replay -------------------------------------------------------------------------------------------------


def replay(place: Workplace, nodes: Mapping[str, Node], report: LockAudit) -> None:
    """Build the chosen images again from the lock alone, and compare the artifacts."""
    root = place.paths.build / "audit"
    shutil.rmtree(root, ignore_errors=True)
    copy, cache = root / "checkout", root / "cache"
    _lay_out(place, copy, cache)
    closed = _build(place, copy, cache)
    other = Paths(copy)
    from pipeline.build.builders import remove_mini_roots
    from pipeline.build.workplace import Workplace as Other

    again = Other(load_plan(other, place.plan.settings), other, Screen(quiet=True))
    try:
        for name, node in nodes.items():
            mine, theirs = (None, None) if is_folder(node) else (place.find(node), again.find(again.plan.nodes[name]))
            if mine is not None:
                report.add(f"replay of {name}", _differing(mine, theirs), "the same bytes")
        # The folder that they are labelled with is about to go; a builder may be named as ours is, and stays for gc.
        remove_mini_roots(again)
    finally:
        again.store.close()
    report.lines.append(f"replay without a network ({closed}), from {len(place.lock().files)} locked files")
    if not report.uncovered:
        shutil.rmtree(root, ignore_errors=True)


def _differing(mine: Artifact, theirs: Artifact | None) -> list[str]:
    if theirs is None:
        return ["was not made"]
    names = sorted({*mine.outputs, *theirs.outputs})
    return [f"{name}: other bytes" for name in names if mine.outputs.get(name) != theirs.outputs.get(name)]


def _lay_out(place: Workplace, copy: Path, cache: Path) -> None:
    """Copy the checkout with its lock and keys, and make a cache that holds only the locked files."""
    for name in checkout_files(place.paths.checkout):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place.paths.checkout / name, copy / name, follow_symlinks=False)
    (copy / "dist").mkdir(exist_ok=True)
    ours, theirs = place.paths.channel(place.plan.channel.name), Paths(copy).channel(place.plan.channel.name)
    theirs.mkdir(parents=True)
    lock = copy / place.lock_path.relative_to(place.paths.checkout)
    lock.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(place.lock_path, lock)
    if (ours / "keys").is_dir():
        shutil.copytree(ours / "keys", theirs / "keys")
    vault, only = Vault(place.paths.cache / "vault"), Vault(cache / "tower" / "vault")
    for file in {file.sha256: file for file in place.lock().files}.values():
        only.path(file).parent.mkdir(parents=True, exist_ok=True)
        vault.copy(file, only.path(file))


def _build(place: Workplace, copy: Path, cache: Path) -> str:
    """Build everything in the copy; return how the network was kept away."""
    settings = place.plan.settings
    engines = [
        os.environ.get("DOCKER_HOST", "unix://"),
        *filter(None, map(place.plan.engine_of, place.plan.channel.architectures)),
    ]
    apart = os.geteuid() == 0 and all(engine.startswith("unix://") for engine in engines) and shutil.which("unshare") is not None
    argv = [*(["unshare", "--net"] if apart else []), sys.executable, "-m", "doit", *settings.words]
    argv += [f"target={settings.target}"] if settings.target else []
    env = {"XDG_CACHE_HOME": str(cache), "http_proxy": _NOWHERE, "https_proxy": _NOWHERE, "PIP_NO_INDEX": "1"}
    log = copy.parent / "replay.log"
    with log.open("wb") as stream:
        done = proc.run(argv, timeout=_SECONDS, cwd=copy, env=env, log=stream, check=False)
    if done.status:
        last = log.read_text(errors="replace").splitlines()[-_TAIL:]
        raise StageError(
            "\n  ".join(["audit:lock: the replay needs something that the lock does not name", *last]), hint=f"whole log: {log}"
        )
    return "in an empty network namespace" if apart else "with proxies that do not exist"
