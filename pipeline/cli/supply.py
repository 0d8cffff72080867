# SPDX-License-Identifier: Apache-2.0
"""Commands about the inputs of builds: lock, fetch, vault:export, vault:import, vault:gc, audit:lock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError, FactoryError, LockError
from pipeline.build.factory import Factory
from pipeline.cli.command_line import number, variables
from pipeline.cli.report import TaskRow
from pipeline.cli.tasks import Task, chosen_nodes, task
from pipeline.supply import lockfile
from pipeline.supply.lock import Lock
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelShop

_DAYS = 30.0


def all_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks of these commands."""
    yield task(
        "lock",
        lambda: lock(factory),
        doc="choose the packages again, and list the changes (older-index=accept)",
        row=TaskRow("lock", "channel"),
    )
    yield task(
        "fetch", lambda: fetch(factory), doc="download and verify everything that the lock names", row=TaskRow("fetch", "channel")
    )
    yield task(
        "vault:export", lambda: export(factory), doc="write everything that the lock names into file=PATH, for another machine"
    )
    yield task("vault:import", lambda: load(factory), doc="import the file=PATH that vault:export wrote")
    yield task(
        "vault:gc",
        lambda: collect(factory),
        doc="remove downloads that no lock here names and nobody used for days=N (default 30)",
    )
    yield task(
        "lab:base", lambda: base(factory), doc="pin the newest wheel of the lab's Alpine, and list the changes (dry-run=1)"
    )
    yield task("audit:lock", lambda: audit(factory), doc="prove that the lock covers everything in the images")


def lock(factory: Factory) -> None:
    """Resolve the channel's lock again, and list the differences (`doit lock [older-index=accept]`). Raises ConfigError."""
    older = variables().get("older-index", "")
    if older:
        if older != "accept":
            raise ConfigError(
                f"older-index={older}: unknown", hint="older-index=accept takes an index that is older than the last one"
            )
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
    """Pin the newest wheel of the lab's Alpine, and list the differences (`doit lab:base [dry-run=1]`). Raises ConfigError."""
    from pipeline.channels.lab.renew import Renewal, as_json

    asked = variables().get("dry-run", "")
    if asked not in ("", "1"):
        raise ConfigError(f"dry-run={asked}: unknown", hint="dry-run=1 shows the changes without writing them")
    channel = factory.plan.channel
    if factory.driver.mirror is None:
        raise ConfigError(f"lab:base: channel {channel.name} makes no mirror of its own", hint="run: ./ci/doit lab:base")
    shop = WheelShop(Vault(factory.paths.cache / "vault"), factory.paths.cache / "wheel-sets")
    done = Renewal(channel, shop, factory.paths.channel(channel.name) / "tmp", factory.progress).renew(dry_run=bool(asked))
    lines = [*done.changes] or ["nothing changed"]
    factory.progress.result("lab:base", as_json(done, dry_run=bool(asked)), lines)
    pinned = "pinned; the next build uses it" if done.differs else "pinned already"
    after = "nothing was written (dry-run=1)" if asked else pinned
    factory.progress.say(f"wheel {done.after} with Alpine {done.alpine}: {after}")


def present(factory: Factory) -> Lock | None:
    """Return the present lock, whether or not it fits; None if there is none that can be read."""
    try:
        return lockfile.read(factory.lock_path, factory.plan.channel)
    except LockError as error:
        if factory.lock_path.exists():
            factory.progress.say(f"{error.message}; the new lock cannot be compared with it")
        return None


def fetch(factory: Factory) -> None:
    """Bring all downloads into the vault, so that builds need no network (`doit fetch`)."""
    factory.make_lock(again=False)
    factory.fetch()


def _file(what: str) -> Path:
    named = variables().get("file", "")
    if not named:
        raise ConfigError(f"{what}: which file?", hint=f"./ci/doit {what} file=PATH")
    return Path(named)


def export(factory: Factory) -> None:
    """Write the vault's files that the lock names into a file (`doit vault:export file=PATH`)."""
    target = _file("vault:export")
    factory.make_lock(again=False)
    factory.fetch()
    count = factory.driver.vault.export(factory.lock().files, target, factory.progress)
    size = target.stat().st_size
    factory.progress.say(f"{target}: {count} files, {size / 2**20:.1f} MiB")
    factory.progress.result("vault:export", {"file": str(target), "files": count, "size": size})


def load(factory: Factory) -> None:
    """Import a file that `vault:export` wrote (`doit vault:import file=PATH`)."""
    source = _file("vault:import")
    count = factory.driver.vault.load(source, factory.progress)
    factory.progress.say(f"{source}: {count} files imported")
    factory.progress.result("vault:import", {"file": str(source), "files": count})


def collect(factory: Factory) -> None:
    """Remove old downloads, but keep what any lock of this checkout names and what was used lately (`doit vault:gc [days=N]`)."""
    days = number("days", _DAYS)
    swept = factory.driver.vault.gc({file.sha256 for lock in all_locks(factory) for file in lock.files}, days)
    sizes = f"{swept.freed / 2**20:.1f} MiB freed, {swept.left / 2**20:.1f} MiB left"
    factory.progress.say(f"vault: {swept.removed} files removed, {sizes}")
    factory.progress.result("vault:gc", {"removed": swept.removed, "freed": swept.freed, "left": swept.left})


def all_locks(factory: Factory) -> Iterator[Lock]:
    """Yield every lock of this checkout. Raises LockError if one cannot be read, since the files that it names are unknown."""
    committed = factory.paths.checkout / "pipeline" / "locks"
    for path in [*sorted(committed.glob("*.lock.json")), *sorted(factory.paths.build.glob("*/*lock.json"))]:
        name = path.name.removesuffix(".lock.json") if path.parent == committed else path.parent.name
        yield lockfile.parse(read_regular(path), str(path), channel=name)


def audit(factory: Factory) -> None:
    """Audit the images against the lock (`doit audit:lock [target=]`). Raises FactoryError if something is not covered."""
    from pipeline.release.lock_audit import audit_lock

    report = audit_lock(factory, chosen_nodes(factory))
    factory.progress.result("audit:lock", {"uncovered": report.uncovered, "lines": list(report.lines)}, report.lines)
    if report.uncovered:
        raise FactoryError(f"audit:lock: the lock does not cover {report.uncovered} things", hint="the lines above name them")
