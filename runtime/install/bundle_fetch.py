# SPDX-License-Identifier: Apache-2.0
"""Fetch the packages of `tower install` once for all hosts, and verify them with the keys of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tower.base.errors import PackageError
from tower.base.view import View
from tower.install.apkindex import Package
from tower.install.bundle_job import BundleJob
from tower.install.fetch import Downloads
from tower.install.repository import Repository


def fetch_all(jobs: Sequence[BundleJob], downloads: Downloads, view: View) -> dict[str, Path]:
    """Fetch every package that a host needs, once; return them by checksum. Each is verified with the keys of its hosts."""
    wanted: dict[str, tuple[Repository, str, Package]] = {}
    for job in jobs:
        for number, package in job.choice.packages:
            wanted.setdefault(package.checksum, (job.state.repositories[number], job.state.arch, package))
    files = _bring(wanted, downloads, view)
    try:
        with view.step("verifying"):
            _verify(jobs, files)
    except PackageError as error:
        if all(path.exists() for path in downloads.doubtful):  # files that do not verify are removed
            raise
        view.say(f"{error.message}: it came from an earlier run, or in pieces; it is fetched again")
        downloads.doubtful.clear()
        files = _bring(wanted, downloads, view)
        with view.step("verifying"):
            _verify(jobs, files)
    return files


def _bring(wanted: dict[str, tuple[Repository, str, Package]], downloads: Downloads, view: View) -> dict[str, Path]:
    todo = [package for _, _, package in wanted.values() if not downloads.has(package)]
    total = sum(package.size - downloads.started(package) for package in todo)
    files: dict[str, Path] = {}
    with view.bar(f"downloading {len(todo)} packages", total) as progress:
        for checksum, (repository, arch, package) in wanted.items():
            files[checksum] = downloads.package(repository, arch, package, progress)
    return files


def _verify(jobs: Sequence[BundleJob], files: dict[str, Path]) -> None:
    """Verify signatures and content with the keys of each host; hosts with equal keys share the work."""
    good: dict[str, set[Path]] = {}
    for job in jobs:
        keys = hashlib.sha256(repr(sorted(job.state.keys.items())).encode()).hexdigest()
        known = good.setdefault(keys, set())
        new = {files[package.checksum] for _, package in job.choice.packages} - known
        try:
            job.copy.check_packages(sorted(new))
        except PackageError:
            # The message names the bad one; none of them is used again without being verified.
            for path in new:
                path.unlink(missing_ok=True)
            raise
        known |= new
