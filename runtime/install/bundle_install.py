# SPDX-License-Identifier: Apache-2.0
"""`tower install` with bundles: read, choose, fetch, verify, send, install; the hosts' network settings are not touched.

    read     each host's description of its packages
    choose   this machine's apk, over the signed indexes, with the host's own keys
    fetch    once for all hosts, through the router; interrupted downloads continue
    verify   checksum of the index, signature, content
    send     the files that the host lacks, under a signed manifest
    install  by the host's own apk, without a network, after it has verified everything once more

After an interruption the same command continues: downloads and sent files are kept, and a host that has begun finishes
by itself.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base.errors import PackageError, StateError, StoppedError, TowerError
from tower.base.files import locked, look, make_folder, read_file, write_file
from tower.base.jsontext import parse_json
from tower.base.names import ROUTER, parse_host_name
from tower.base.refused import home_folder
from tower.base.regular import open_regular
from tower.base.view import View
from tower.hosts.registry import WORLD, Host, Tower
from tower.install.apkindex import INDEX, Index
from tower.install.bundle import Bundle, File, installing, read_state, send
from tower.install.bundle_fetch import fetch_all
from tower.install.bundle_job import BundleJob
from tower.install.choose import check_names, copy_of
from tower.install.connection import connect
from tower.install.fetch import Downloads
from tower.install.outcome import Outcome
from tower.install.repository import Repository
from tower.install.servers import check_servers
from tower.install.wanted import record_wanted
from tower.ssh.way import Way

if TYPE_CHECKING:
    from tower.ssh.sessions import Session

SEEN: Final = "indexes.json"
"""In ~/.local/tower: the date of the newest index of each repository that was used here."""
_DAY: Final = 86400
_AT_ONCE: Final = 8
"""The most hosts to work with at the same time."""


def install_by_bundle(
    tower: Tower,
    names: Sequence[str],
    words: Sequence[str],
    view: View,
    *,
    yes: bool = False,
    dry_run: bool = False,
    servers: Collection[tuple[str, int]] = (),
) -> Outcome:
    """Install packages on hosts. `servers` are those that the user has allowed.

    Raises a TowerError if it concerns all hosts, before anything is sent; trouble with one host is in the report.
    """
    check_names(words)
    report = Outcome(tuple(dict.fromkeys(words)))
    hosts = [tower.host(parse_host_name(name)) for name in names]
    with ExitStack() as stack:
        for host in hosts:
            busy = f"{host.name}: another tower is installing packages on it"
            stack.enter_context(locked(host.file(".install.lock"), busy=busy))
        session, jobs = _read_all(stack, tower, hosts, report, view)
        jobs = _led_only_to_known_servers(jobs, report, tower, view, allowed=servers, yes=yes or dry_run)
        way = Way(session)
        stack.callback(way.close)
        downloads = Downloads(_cache(), way, report=view.say)
        with view.step("choosing packages"), locked(_cache() / ".lock"):
            jobs = _choose(jobs, report, downloads, tower)
        _tell(jobs, downloads, view)
        needed = [job for job in jobs if _is_needed(job, report.words)]
        if needed and not dry_run:
            view.confirm("Install them?", yes=yes)
            with locked(_cache() / ".lock"):
                files = fetch_all(needed, downloads, view)
                downloads.tidy()
            way.close()
            _install_all(needed, files, report, view)
        report.steps.update({job.host.name: job.choice.steps for job in jobs if job.host.name not in report.problems})
        report.downloaded = downloads.received
    return report


def _cache() -> Path:
    folder = home_folder() / ".cache" / "tower" / "packages"
    make_folder(folder)
    return folder


def _read_all(
    stack: ExitStack, tower: Tower, hosts: Sequence[Host], report: Outcome, view: View
) -> tuple[Session, list[BundleJob]]:
    """Connect to the router and to all hosts at once, and ask each; trouble with a host is in the report."""
    router = tower.host(ROUTER)

    def read(host: Host) -> BundleJob:
        session = stack.enter_context(connect(tower, host))
        state = read_state(session, view.say)
        for what in state.left_out:
            view.say(f"{host.name}: ignoring its {what}")
        return BundleJob(session, stack.enter_context(copy_of(state, host.name)))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        way = pool.submit(lambda: stack.enter_context(connect(tower, router)))
        asked = [(host, pool.submit(read, host)) for host in hosts]
        jobs = []
        for host, one in asked:
            try:
                jobs.append(one.result())
            except StoppedError:
                raise
            except TowerError as error:
                report.problems[host.name] = error
        return way.result(), jobs


def _led_only_to_known_servers(
    jobs: Sequence[BundleJob], report: Outcome, tower: Tower, view: View, *, allowed: Collection[tuple[str, int]], yes: bool
) -> list[BundleJob]:
    """Return the jobs of hosts whose repositories are all on known servers (see tower.install.servers); the others fail."""
    good = []
    for job in jobs:
        try:
            check_servers(tower, job.host.name, job.state.repositories, view, allowed=allowed, yes=yes)
            good.append(job)
        except StoppedError:
            raise
        except TowerError as error:
            report.problems[job.host.name] = error
    return good


def _choose(jobs: Sequence[BundleJob], report: Outcome, downloads: Downloads, tower: Tower) -> list[BundleJob]:
    """Fetch every index once, verify it with the keys of each host, and ask apk; return the jobs without trouble."""
    fetched: dict[tuple[Repository, str], Path] = {}
    read: dict[str, Index] = {}
    good = []
    for job in jobs:
        try:
            indexes = []
            for number, repository in enumerate(job.state.repositories):
                place = (repository, job.state.arch)
                if place not in fetched:
                    fetched[place] = downloads.index(repository, job.state.arch)
                try:
                    indexes.append(_checked(job, number, fetched[place], downloads, read))
                    _check_age(tower, f"{repository.kind}{repository.address} {job.state.arch}", indexes[-1].made)
                except PackageError:
                    downloads.forget_index(fetched.pop(place))
                    raise
            job.choice = job.copy.choose(report.words, indexes)
            good.append(job)
        except StoppedError:
            raise
        except TowerError as error:
            report.problems[job.host.name] = error
    return good


def _checked(job: BundleJob, number: int, path: Path, downloads: Downloads, read: dict[str, Index]) -> Index:
    """Return an index that the host's keys have signed. Raises PackageError.

    An index of an earlier run that does not verify may have been changed here since: it is fetched again, once.
    """
    try:
        return job.copy.check_index(number, path, read)
    except PackageError:
        if path not in downloads.unchanged:
            raise
        downloads.report(f"{path}: was changed since it was fetched; it is fetched again")
        downloads.forget_index(path)
        return job.copy.check_index(number, downloads.index(job.state.repositories[number], job.state.arch), read)


def _check_age(tower: Tower, name: str, made: int) -> None:
    """Raise PackageError if a newer index of that repository was seen: an old one hides later repairs."""
    path = tower.folder / SEEN
    with locked(tower.folder / ".indexes.lock"):
        try:
            seen = parse_json(read_file(path)) if look(path) else {}
            newest = int(seen.get(name, 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise StateError(f"{path}: is damaged", hint="remove it; it is made again") from error
        if made < newest:
            raise PackageError(
                f"{name}: its index was made {_day(made)}; one made {_day(newest)} was seen before",
                hint=f"the server is out of date, or hides newer packages; if its index was set back on purpose, remove {path}",
            )
        # An index from the future (a clock was wrong) would make all others look old.
        if newest < made < time.time() + _DAY:
            write_file(path, json.dumps({**seen, name: made}, sort_keys=True).encode())


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _is_needed(job: BundleJob, words: Sequence[str]) -> bool:
    return bool(job.choice.steps or set(words) - set(job.state.world.decode().split()))


def _tell(jobs: Sequence[BundleJob], downloads: Downloads, view: View) -> None:
    for job in jobs:
        fetch = sum(package.size - downloads.started(package) for _, package in job.choice.packages if not downloads.has(package))
        view.say(
            f"{job.host.name}: {len(job.choice.steps)} steps, {_mib(fetch)} to download, {_mib(job.choice.space)} when installed"
        )
        for step in job.choice.steps:
            view.say(f"    {step}")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _install_all(jobs: Sequence[BundleJob], files: dict[str, Path], report: Outcome, view: View) -> None:
    """Send to all hosts at once and install; trouble with one host does not delay the others."""
    digests: dict[Path, str] = {}
    bundles = [_bundle(job, report.words, files, digests) for job in jobs]
    stopped = threading.Event()

    def install(job: BundleJob, bundle: Bundle) -> int:
        with view.bar(f"{job.host.name}: sending", sum(file.size for file in bundle.files)) as progress:
            sent = send(job.session, bundle, progress)
        if not stopped.is_set():
            _install(job, report.words, view)
        return sent

    with ThreadPoolExecutor(min(len(jobs), _AT_ONCE)) as pool:
        running = [pool.submit(install, job, bundle) for job, bundle in zip(jobs, bundles, strict=True)]
        try:
            problems = [one.exception() for one in running]
        except BaseException as stop:
            # A signal came: closing the connections ends everything that uses them, and nothing new begins.
            stopped.set()
            for job in jobs:
                job.session.close()
            if isinstance(stop, KeyboardInterrupt | StoppedError):
                number = stop.exit_status - 128 if isinstance(stop, StoppedError) else signal.SIGINT
                raise StoppedError(
                    number, hint="hosts that have begun finish by themselves; run the same command again"
                ) from None
            raise
    for job, one, problem in zip(jobs, running, problems, strict=True):
        if problem is None:
            report.sent += one.result()
        elif isinstance(problem, TowerError):
            report.problems[job.host.name] = problem
        else:
            raise problem


def _install(job: BundleJob, words: Sequence[str], view: View) -> None:
    """Install on one host. Raises PackageError if its apk chooses other packages than ours, or fails, and AnswerErrors."""
    name, world = job.host.name, job.host.file(WORLD)
    with view.step(f"{name}: installing"), installing(job.session, view, lambda found: record_wanted(world, found)) as talk:
        if talk.plan.doubt:
            raise PackageError(
                f"{name}: its apk {talk.plan.doubt}, which tower does not understand; nothing was changed",
                hint=f"install without a bundle: tower install {name} {' '.join(words)} --tunnel",
            )
        if tuple(sorted(talk.steps)) != job.choice.steps:
            raise PackageError(
                f"{name}: its apk would do {', '.join(sorted(talk.steps)) or 'nothing'}, expected {', '.join(job.choice.steps)}",
                hint="nothing was changed; install through a tunnel: tower install --tunnel",
            )
        talk.go()
        record_wanted(world, words)
        talk.write("kept")


def _bundle(job: BundleJob, names: Sequence[str], files: dict[str, Path], digests: dict[Path, str]) -> Bundle:
    found = [(job.copy.index_place(number), number, INDEX) for number in range(len(job.state.repositories))]
    found += [(files[package.checksum], number, package.file_name) for number, package in job.choice.packages]
    for path, _, _ in found:
        if path not in digests:
            with open_regular(path) as stream:
                digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
    return Bundle(
        host=job.host,
        state=job.state,
        names=tuple(names),
        space=job.choice.space,
        files=tuple(File(path, digests[path], path.stat().st_size, number, name) for path, number, name in found),
    )
