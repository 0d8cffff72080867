# SPDX-License-Identifier: Apache-2.0
"""Commands about what builds are made from: lock, fetch, vault:export, vault:import, vault:gc, audit:lock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError, FactoryError, LockError
from pipeline.build.factory import Factory
from pipeline.cli.command_line import number, variables
from pipeline.cli.report import Row
from pipeline.cli.tasks import Task, chosen_nodes, task
from pipeline.supply import lockfile
from pipeline.supply.lock import Lock
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelShop

_DAYS = 30.0


def all_tasks(factory: Factory) -> Iterator[Task]:
    """The tasks of these commands."""
    yield task(
        "lock",
        lambda: lock(factory),
        doc="choose the packages anew, and say what changed (older-index=accept)",
        row=Row("lock", "channel"),
    )
    yield task("fetch", lambda: fetch(factory), doc="download all that the lock names, verified", row=Row("fetch", "channel"))
    yield task("vault:export", lambda: export(factory), doc="write all that the lock names into file=PATH, for another machine")
    yield task("vault:import", lambda: load(factory), doc="take in what vault:export wrote into file=PATH")
    yield task(
        "vault:gc", lambda: collect(factory), doc="remove downloads that no lock here names, unused for days=N (default 30)"
    )
    yield task(
        "lab:base", lambda: base(factory), doc="pin the newest wheel of the lab's Alpine, and say what changes (dry-run=1)"
    )
    yield task("audit:lock", lambda: audit(factory), doc="prove that the images hold nothing that the lock does not cover")


def lock(factory: Factory) -> None:
    """`doit lock [older-index=accept]`: resolve the channel's lock again, and say in words what differs."""
    older = variables().get("older-index", "")
    if older:
        if older != "accept":
            raise ConfigError(f"older-index={older}: unknown", hint="older-index=accept takes indexes older than those before")
        if factory.driver.mirror is not None:
            raise ConfigError(f"older-index: channel {factory.plan.channel.name} makes its own mirror: no index is older")
        factory.progress.say("older-index=accept: indexes may be older than before; their packages may lack later repairs")
    before = present(factory)
    made = factory.make_lock(again=True, accept_older=bool(older))
    lines = lockfile.differences(before, made)
    data: dict[str, JsonValue] = {
        "lock": made.digest,
        "packages": {arch: len(rows) for arch, rows in made.packages.items()},
        "builder": len(made.builder),
    }
    factory.progress.result("lock", {**data, "changes": list(lines)}, lines or ["nothing changed"])
    counts = ", ".join(f"{len(rows)} for {arch}" for arch, rows in sorted(made.packages.items()))
    factory.progress.say(f"lock {made.digest[:12]}: packages: {counts}; builder: {len(made.builder)}")


def base(factory: Factory) -> None:
    """`doit lab:base [dry-run=1]`: pin the newest wheel of the lab's Alpine, and say in words what differs."""
    from pipeline.channels.lab.renew import Renewal, as_json

    asked = variables().get("dry-run", "")
    if asked not in ("", "1"):
        raise ConfigError(f"dry-run={asked}: unknown", hint="dry-run=1 says what would change, and writes nothing")
    channel = factory.plan.channel
    if factory.driver.mirror is None:
        raise ConfigError(f"lab:base: channel {channel.name} makes no mirror of its own", hint="run: ./ci/doit lab:base")
    shop = WheelShop(Vault(factory.paths.cache / "vault"), factory.paths.cache / "wheel-sets")
    done = Renewal(channel, shop, factory.paths.channel(channel.name) / "tmp", factory.progress).renew(dry_run=bool(asked))
    lines = [*done.changes] or ["nothing changed"]
    factory.progress.result("lab:base", as_json(done, dry_run=bool(asked)), lines)
    pinned = "pinned; the next build takes it" if done.differs else "pinned already"
    after = "nothing was written (dry-run=1)" if asked else pinned
    factory.progress.say(f"wheel {done.after} with Alpine {done.alpine}: {after}")


def present(factory: Factory) -> Lock | None:
    """The lock as it now is, fitting or not; None if there is none that can be read."""
    try:
        return lockfile.read(factory.lock_path, factory.plan.channel)
    except LockError as error:
        if factory.lock_path.exists():
            factory.progress.say(f"{error.message}; it is made anew, and cannot be compared with")
        return None


def fetch(factory: Factory) -> None:
    """`doit fetch`: bring all downloads into the vault, so that builds need no network."""
    factory.make_lock(again=False)
    factory.fetch()


def _file(what: str) -> Path:
    named = variables().get("file", "")
    if not named:
        raise ConfigError(f"{what}: which file?", hint=f"./ci/doit {what} file=PATH")
    return Path(named)


def export(factory: Factory) -> None:
    """`doit vault:export file=PATH`."""
    target = _file("vault:export")
    factory.make_lock(again=False)
    factory.fetch()
    count = factory.driver.vault.export(factory.lock().files, target, factory.progress)
    size = target.stat().st_size
    factory.progress.say(f"{target}: {count} files, {size / 2**20:.1f} MiB")
    factory.progress.result("vault:export", {"file": str(target), "files": count, "size": size})


def load(factory: Factory) -> None:
    """`doit vault:import file=PATH`."""
    source = _file("vault:import")
    count = factory.driver.vault.load(source, factory.progress)
    factory.progress.say(f"{source}: {count} files taken in")
    factory.progress.result("vault:import", {"file": str(source), "files": count})


def collect(factory: Factory) -> None:
    """`doit vault:gc [days=N]`: keep what any lock of this checkout names, and what was used lately."""
    days = number("days", _DAYS)
    swept = factory.driver.vault.gc({file.sha256 for lock in all_locks(factory) for file in lock.files}, days)
    sizes = f"{swept.freed / 2**20:.1f} MiB freed, {swept.left / 2**20:.1f} MiB left"
    factory.progress.say(f"vault: {swept.removed} files removed, {sizes}")
    factory.progress.result("vault:gc", {"removed": swept.removed, "freed": swept.freed, "left": swept.left})


def all_locks(factory: Factory) -> Iterator[Lock]:
    """Every lock of this checkout. Raises LockError for one that cannot be read: what it names is not known."""
    committed = factory.paths.checkout / "pipeline" / "locks"
    for path in [*sorted(committed.glob("*.lock.json")), *sorted(factory.paths.build.glob("*/*lock.json"))]:
        name = path.name.removesuffix(".lock.json") if path.parent == committed else path.parent.name
        yield lockfile.parse(read_regular(path), str(path), channel=name)


def audit(factory: Factory) -> None:
    """`doit audit:lock [target=]`. Raises FactoryError if something is not covered."""
    from pipeline.release.lock_audit import audit_lock

    report = audit_lock(factory, chosen_nodes(factory))
    factory.progress.result("audit:lock", {"uncovered": report.uncovered, "lines": list(report.lines)}, report.lines)
    if report.uncovered:
        raise FactoryError(f"audit:lock: {report.uncovered} things are not covered by the lock", hint="the lines above name them")
