# SPDX-License-Identifier: Apache-2.0
"""The lab's repository for one architecture: every locked package converted, signed, and a signed index of them.

Unsigned conversions are kept by key in build/lab/apk and shared by all runs of the checkout; signing is quick
and done again for every repository.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.pkginfo import parse_dependency
from pipeline.base.errors import ConfigError, StoreError
from pipeline.base.filelock import locked
from pipeline.base.progress import Progress
from pipeline.base.recorded import Recorded, RecordedCache
from pipeline.base.workers import workers
from pipeline.channels.lab.assemble import Conversion, Product, make_jobs, select
from pipeline.channels.lab.catalog import Catalog
from pipeline.channels.lab.convert import Converted, convert
from pipeline.channels.lab.deb import Control, open_verified, read_control
from pipeline.channels.lab.kernel import depmod_version
from pipeline.channels.lab.keymaps import loadkeys_version
from pipeline.supply.lock import LockedFile

if TYPE_CHECKING:
    from pipeline.supply.vault import Vault

_MAX_PROCESSES = 8
_KEPT = 3


@dataclass(frozen=True, slots=True)
class Workshop:
    """The means of conversions, apart from their jobs."""

    checkout: Path
    debs: Vault
    converted: Path
    """Unsigned packages by key."""
    epoch: int
    report: Callable[[str], None]
    """Takes a line for the user."""


def plan_jobs(
    shop: Workshop, catalog: Catalog, packages: Iterable[LockedFile], world: Iterable[str], arch: str
) -> list[Conversion]:
    """Return the conversions of one architecture, sorted by name; reads the control files of all its Debian packages."""
    products = select(catalog, packages, world, arch)
    wanted = {deb.name: deb for product in products for deb in product.debs}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        controls = dict(zip(wanted, pool.map(lambda deb: _control(shop, deb), wanted.values()), strict=True))
    return make_jobs(catalog, products, controls, shop.epoch, _tools(products))


def _tools(products: list[Product]) -> dict[str, str]:
    definitions = [product.definition for product in products if product.definition is not None]
    found = {}
    if any(definition.kernel is not None for definition in definitions):
        found["depmod"] = depmod_version()
    if any(definition.keymaps is not None for definition in definitions):
        found["loadkeys"] = loadkeys_version()
    return found


def _control(shop: Workshop, deb: LockedFile) -> Control:
    with open_verified(shop.debs.path(deb), deb.sha256) as stream:
        return read_control(stream, f"{deb.name} {deb.version}")


def convert_all(shop: Workshop, jobs: list[Conversion], progress: Progress) -> dict[tuple[str, str], Recorded]:
    """Return the unsigned package of every job, by name and architecture; missing and changed ones are made again.

    Raises StoreError.
    """
    shop.converted.mkdir(parents=True, exist_ok=True)
    cache = RecordedCache(shop.converted, shop.report)
    names = {(job.product.name, job.product.arch): _file_name(shop, job) for job in jobs}
    with locked(shop.converted / "guard"):
        found = _find(cache, names.values())
        # Large ones first, so that no process has a kernel left at the end.
        missing = sorted(
            (job for job in jobs if names[job.product.name, job.product.arch] not in found),
            key=lambda job: -sum(deb.size for deb in job.product.debs),
        )
        for stale in shop.converted.glob("tmp*"):
            _remove(stale)
        try:
            with progress.bar(f"{len(missing)} packages converted", len(missing), "") as bar:
                places = {name: cache.place(file) for name, file in names.items()}
                for _ in _convert_in_parallel(shop, missing, places):
                    bar.advance(1)
        except OSError as error:
            raise StoreError(
                f"{shop.converted}: {error.strerror or error}", hint="make room on the disk, then run it again"
            ) from error
        found |= _find(cache, (names[job.product.name, job.product.arch] for job in missing))
        _forget_old(cache, names.values())
    gone = [name for (name, _), file in names.items() if file not in found]
    if gone:
        raise StoreError(f"{shop.converted}: {', '.join(gone)}: changed while it was made", hint="run the same command again")
    return {name: found[file] for name, file in names.items()}


def _file_name(shop: Workshop, job: Conversion) -> str:
    return f"{job.product.name}.{job.product.arch}.{job.key(shop.checkout)}.apk"


def _find(cache: RecordedCache, names: Iterable[str]) -> dict[str, Recorded]:
    """Return the undamaged ones, by name."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {one.path.name: one for one in pool.map(cache.find, names) if one is not None}


def _forget_old(cache: RecordedCache, names: Iterable[str]) -> None:
    """Keep the last used conversions of every package, so that switching back and forth is quick; remove the others."""
    for name in names:
        cache.mark_used(name)
        prefix = name.removesuffix(".apk").rpartition(".")[0]
        found = [path.name for path in cache.folder.glob(f"{glob.escape(prefix)}.{'[0-9a-f]' * 64}.apk")]
        for old in sorted(found, key=cache.last_used, reverse=True)[_KEPT:]:
            cache.remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        for item in sorted(path.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() and not item.is_symlink() else item.unlink()
        path.rmdir()
    else:
        path.unlink()


def _convert_in_parallel(shop: Workshop, jobs: list[Conversion], places: Mapping[tuple[str, str], Path]) -> Iterator[Converted]:
    def arguments(job: Conversion) -> tuple[Conversion, tuple[Path, ...], Path, Path, Path]:
        debs = tuple(shop.debs.path(deb) for deb in job.product.debs)
        return job, debs, shop.checkout, shop.converted, places[job.product.name, job.product.arch]

    processes = min(os.cpu_count() or 1, _MAX_PROCESSES, len(jobs))
    if processes < 2:
        for job in jobs:
            yield convert(*arguments(job))
        return
    # Use processes: tar and ELF are parsed in Python, so threads would only take turns.
    pool = workers(processes)
    try:
        running: set[Future[Converted]] = {pool.submit(convert, *arguments(job)) for job in jobs}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check_needs(entries: Iterable[IndexEntry]) -> None:
    """Raise a ConfigError that lists every dependency that the repository cannot fulfil."""
    rows = list(entries)
    provided = {entry.name for entry in rows}
    provided |= {parse_dependency(item).name for entry in rows for item in entry.provides}
    missing = [
        f"{entry.name}: {need}"
        for entry in rows
        for need in entry.depends
        if not parse_dependency(need).conflict and parse_dependency(need).name not in provided
    ]
    if missing:
        raise ConfigError(
            "\n  ".join(["lab repository: nothing provides what these packages need", *missing]),
            hint="look at the tables in pipeline/channels/lab/packages (`ignored`, `depends`, `without`)",
        )
