# SPDX-License-Identifier: Apache-2.0
"""The rings of tests: a test's folder is its ring, rings run in order, and CI takes no skip for an answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import newmachine

_HIDDEN = pytest.StashKey[str]()
CHECKOUT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

# Folder (and marker) of each ring, in the order they run, with the seconds one of its tests may take.
RINGS = {"lint": 300, "unit": 60, "stages": 180, "integration": 600, "network": 300, "gui": 300, "boot": 3600}

# Of the last ring, what starts first: workers take whole files, and the last one must not be waited for.
LONGEST = [
    CHECKOUT / "tests/boot" / f"test_{name}.py" for name in ("installer", "provision", "upgrade", "third_format", "images")
]

# Why a row of docs/acceptance.md is only simulated by tests of a ring. The ring `boot` starts the product's own images, and in
# `network` their roots make themselves ready by their own scripts, and run their own services. A mark says it for one
# test: `qa("T01", simulated="why")`, or `simulated=None` if the test does use the product's own images.
SIMULATED = {
    "lint": "no system is started",
    "unit": "it runs on the machine that runs the tests",
    "stages": "scripts of stages run on tiny inputs, nothing is started",
    "integration": "it runs on the machine that runs the tests",
}


# A limit on the time of an example would say how busy the machine is.
settings.register_profile("tower", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tower")


def pytest_configure(config: pytest.Config) -> None:
    """Make this process what it would be on a new machine, in the foreground."""
    newmachine.default_signals()
    if config.option.collectonly:
        config.stash[_HIDDEN] = "nothing is hidden from a listing"
    elif not is_worker(config):
        config.stash[_HIDDEN] = newmachine.hide(CHECKOUT)
        config.pluginmanager.register(SaidAtOnce(config))


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for another one (pytest-xdist), which started it where everything is hidden."""
    return hasattr(config, "workerinput")


def pytest_report_header(config: pytest.Config) -> str:
    """Say what the tests do not see."""
    return config.stash.get(_HIDDEN, "hidden by the process that runs this one")


def ring_of(item: pytest.Item) -> str:
    """The folder below tests/ that a test lies in."""
    parts = item.path.relative_to(CHECKOUT / "tests").parts
    if parts[0] not in RINGS:
        raise pytest.UsageError(f"{item.path}: tests lie in one of tests/{{{','.join(RINGS)}}}/")
    return parts[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its ring and its time limit, and put the rings in order."""
    order = list(RINGS)
    for item in items:
        ring = ring_of(item)
        item.add_marker(getattr(pytest.mark, ring))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(RINGS[ring]))
        if "shared_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
    longest = {path: number for number, path in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.index(ring_of(item)), longest.get(item.path, len(longest))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one, unless it is about the reference data beside the checkout."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("shared") is None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped, which CI does not allow: {report.longrepr}"
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--qa-list=FILE`: write which tests carry which rows of the acceptance list; `--renew-golden`: what stages make."""
    parser.addoption("--qa-list", type=Path, metavar="FILE", help="write the tests of the acceptance list, as JSON")
    parser.addoption("--renew-golden", action="store_true", help="tests/stages: write the listings of what stages make anew")


def rows_of(item: pytest.Item) -> dict[str, str]:
    """Row of docs/acceptance.md that a test checks -> why it only simulates the row; empty if it uses the product's images."""
    rows = {}
    for mark in item.iter_markers("qa"):
        reason = mark.kwargs.get("simulated", SIMULATED.get(ring_of(item)))
        if (
            len(mark.args) != 1
            or mark.kwargs.keys() - {"simulated"}
            or not (reason is None or (isinstance(reason, str) and reason))
        ):
            raise pytest.UsageError(f'{item.nodeid}: {mark}: a mark is qa("T01") or qa("T01", simulated="why")')
        rows[str(mark.args[0])] = reason or ""
    return dict(sorted(rows.items()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the list that was asked for."""
    target: Path | None = session.config.getoption("--qa-list")
    if target is not None:
        target.write_text(json.dumps({item.nodeid: rows for item in session.items if (rows := rows_of(item))}))


_ended: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup, call and teardown of a test of the acceptance list: the worst of them is how it ended."""
    if "qa" in report.keywords:
        order = ("passed", "skipped", "failed")
        _ended[report.nodeid] = max(report.outcome, _ended.get(report.nodeid, "passed"), key=order.index)


class SaidAtOnce:
    """Prints why a test failed as soon as it fails: pytest does so at the end of the run, which may never be reached."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One line for a failed test."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            lines = report.longreprtext.splitlines()
            reason = next((line for line in lines if line.startswith("E ")), lines[-1] if lines else "no reason given")
            terminal.ensure_newline()
            terminal.write_line(f"{report.nodeid}: {report.when} failed: {reason.removeprefix('E ').strip()[:300]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep how they ended for `doit qa`, beside what earlier runs left."""
    if not _ended or is_worker(session.config):
        return
    record = CHECKOUT / "build" / "qa.json"
    try:
        rows = json.loads(record.read_bytes())
    except (OSError, ValueError):
        rows = {}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows.update({test: {"outcome": outcome, "when": when} for test, outcome in _ended.items()})
    record.parent.mkdir(exist_ok=True)
    new = record.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    new.replace(record)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout that is tested."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The reference data beside the checkout; tests that use it are skipped where there is none."""
    shared = CHECKOUT.parent / "shared"
    if not shared.is_dir():
        pytest.skip("no reference data beside the checkout")
    return shared


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished images, all of them built (or found built) by the real command."""
    run = subprocess.run([sys.executable, "-m", "doit"], cwd=CHECKOUT, capture_output=True, text=True, timeout=7200, check=False)
    if run.returncode != 0:
        pytest.fail(f"doit: exit status {run.returncode}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}", pytrace=False)
    from pipeline.base.paths import Paths
    from pipeline.base.progress import Screen
    from pipeline.build.factory import Factory
    from pipeline.cli.inputs import need_published
    from pipeline.plan.nodes import Settings
    from pipeline.plan.planner import load_plan

    # Where another checkout has its images, those of this one lie in a folder of their own.
    paths = Paths(CHECKOUT)
    factory = Factory(load_plan(paths, Settings()), paths, Screen(quiet=True))
    found = [need_published(factory, image) for image in factory.plan.images]
    factory.store.close()
    if len({one.path.parent for one in found}) == 1:
        return found[0].path.parent
    folder = tmp_path_factory.mktemp("images")
    for one in found:
        for name in one.files:
            (folder / name).symlink_to(one.path.with_name(name))
    return folder


@pytest.fixture(scope="module")
def large_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for disks, images and stores that the tests of a module share. It goes with the last of them, even if one failed:
    pytest keeps its other folders until the whole run is over, and those of a run that failed for longer.
    """
    folder = tmp_path_factory.mktemp("large")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes small file systems of their own, to see what happens when the disk is full; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    with ExitStack() as mounted:

        def mount(size: str) -> Path:
            folder = tmp_path / f"disk-{size}"
            folder.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder], check=True)
            mounted.callback(lambda: subprocess.run(["umount", "--lazy", folder], check=True))
            return folder

        yield mount
