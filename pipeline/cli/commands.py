# SPDX-License-Identifier: Apache-2.0
"""The commands of `doit` beside building and supply: explain, gc, replay, boot, test, verify, release, audit.

Each is one function that a task calls; it imports heavy modules when it is called.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.base import proc
from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError, FactoryError, LockError, SandboxError
from pipeline.base.filelock import locked
from pipeline.base.files import write
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.base.scratch import temporary_folder
from pipeline.build.factory import Factory
from pipeline.cli import sim_tasks, supply
from pipeline.cli.command_line import number, variables
from pipeline.cli.report import TaskRow
from pipeline.cli.tasks import Task, chosen_images, chosen_nodes, task
from pipeline.images.boot_record import BOOTS, recorded
from pipeline.plan import explain
from pipeline.plan.keys import NotBuiltError
from pipeline.plan.nodes import Image, Node, StageNode, is_folder

_TEST_SECONDS = 4 * 3600
_ALL_TESTS = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
"""The test files run two at a time, the fastest ring first; more at once need more memory than a laptop has."""
_GIB = 1 << 30
_DEFAULT_GIB = 20
_PYTEST_OPTIONS = (
    {"name": "k", "short": "k", "type": str, "default": "", "help": "run only tests whose names match this expression"},
    {"name": "m", "short": "m", "type": str, "default": "", "help": "run only tests with these marks"},
    {"name": "x", "short": "x", "type": bool, "default": False, "help": "stop at the first failure"},
    {"name": "v", "short": "v", "type": bool, "default": False, "help": "print a line for each test"},
)


def all_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks of all commands."""
    yield from boot_tasks(factory)
    yield from supply.all_tasks(factory)
    yield from sim_tasks.all_tasks(factory)
    yield _command(
        "builder", lambda: builder(factory), "make the container image that stages run in", TaskRow("builder", "channel")
    )
    yield task(
        "explain", lambda words: explain_all(factory, words), doc="explain why stages are built again [STAGE...]", arguments=True
    )
    yield _command("gc", lambda: collect(factory), "remove old artifacts until the store fits into size=GiB (default 20)")
    yield _command(
        "replay", lambda: replay(factory), "run the script of stage=NAME again, on the terminal (shell=1: a shell in its place)"
    )
    yield task(
        "test",
        partial(run_tests, factory.paths, factory.progress),
        doc="run the tests [PYTEST-ARGUMENTS...]",
        arguments=True,
        options=_PYTEST_OPTIONS,
    )
    yield _command(
        "qa",
        lambda: acceptance(factory.paths, factory.progress),
        "show the acceptance list with the last results of its tests",
    )
    yield _command("verify:reproducible", lambda: verify(factory), "build everything twice, in two places, and compare")
    yield _command(
        "cache:push", lambda: push(factory), "sign with key=FILE the artifacts that were built here, and push them into cache="
    )
    yield from release_tasks(factory)


def release_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks about releases."""
    from pipeline.cli import releases
    from pipeline.cli.inputs import destination
    from pipeline.images.elf import audit_task as audits

    yield _command(
        "release", lambda: releases.release(factory, variables()), "sign version=X.Y.Z with key=FILE, if built and tested"
    )
    yield _command(
        "attest",
        lambda: releases.attest(factory, variables()),
        "sign with key=FILE a statement that our build equals the release in dir=",
    )
    yield _command(
        "verify:release",
        lambda: releases.verify_release(factory, variables()),
        "check the release in dir= with public keys (key=, rebuilders=, need=K)",
    )
    yield _command(
        "audit:elf",
        lambda: audits.audit_elf(destination(factory), factory.plan.channel.name, chosen_images(factory), factory.progress),
        "check programs, libraries, setuid files, services and kernel modules of the images",
    )


def _command(name: str, action: Callable[[], None], doc: str, row: TaskRow | None = None) -> Task:
    return task(name, action, doc=doc, row=row)


def builder(factory: Factory) -> None:
    """Make the builder in the container engine, and the builders of other engines there, unless they exist (`doit builder`)."""
    factory.make_lock(again=False)
    for arch in ("", *(arch for arch in factory.plan.channel.architectures if factory.plan.engine_of(arch))):
        image, key, address = factory.builder(arch), factory.keys.builder(arch), factory.engine_for(arch).address
        factory.progress.say(f"builder {key[:12]}{f' at {address}' if arch else ''}: {image}")
        native = factory.plan.builder_arch(arch)
        factory.progress.result("builder", {"architecture": native, "key": key, "image": image, "engine": address})


# --- explain ------------------------------------------------------------------------------------------------


def explain_all(factory: Factory, words: Sequence[str]) -> None:
    """List for each instance what differs from its last build (`doit explain [stage...]`). Raises ConfigError."""
    nodes = chosen_nodes(factory)
    known = {name.removeprefix("stage:"): node for name, node in nodes.items() if not is_folder(node)}
    chosen: list[Node] = []
    for word in words:
        name = word.removeprefix("stage:")
        found = [known[name]] if name in known else [node for node in factory.plan.instances(name) if node.name in nodes]
        if not found:
            raise ConfigError(f"{word}: there is no such stage", hint=f"known: {', '.join(factory.plan.stage_names)}")
        chosen.extend(found)
    for node in chosen or known.values():
        said = explain_node(factory, node)
        data: dict[str, JsonValue] = {"stage": node.name, "key": said.key, "state": said.state, "since": said.since}
        factory.progress.result("explain", {**data, "differences": list(said.lines), "text": said.title}, said.text)


@dataclass(frozen=True, slots=True)
class Explained:
    """The explanation for one node."""

    title: str
    state: str
    """One of: built, unbuilt, unknown."""
    key: str = ""
    since: str = ""
    """The key of the build that `lines` compares with."""
    lines: tuple[str, ...] = ()

    @property
    def text(self) -> list[str]:
        """Return the explanation as lines for people."""
        return [self.title, *(f"  {line}" for line in self.lines)]


def explain_node(factory: Factory, node: Node) -> Explained:
    """Explain whether a node is built, and what differs from its last build; for a built one, from the build before that."""
    inputs = dict(node.inputs) if isinstance(node, StageNode) else {}
    last, before = explain.recall(factory.paths, node)
    try:
        keyed = factory.keys.of(node)
        built = factory.store.lookup(keyed.key) is not None
    except NotBuiltError as error:
        return Explained(f"{node.name}: not known yet: {error} has to be built first", "unknown")
    except LockError as error:
        return Explained(f"{node.name}: not known yet: {error.message}", "unknown")
    now = explain.snapshot(keyed)
    if not built:
        title = f"{node.name} {keyed.key[:12]}: will be built"
        if last is None:
            return Explained(f"{title}, for the first time", "unbuilt", keyed.key)
        if last.key == keyed.key:
            return Explained(f"{title} again: its artifact is gone or damaged", "unbuilt", keyed.key)
        lines = tuple(explain.differences(last, now, inputs))
        return Explained(f"{title}; since {last.key[:12]}:", "unbuilt", keyed.key, last.key, lines)
    title = f"{node.name} {keyed.key[:12]}: is built"
    if last is None or before is None or last.key != keyed.key:
        return Explained(title, "built", keyed.key)
    lines = tuple(explain.differences(before, now, inputs))
    return Explained(f"{title}; it differs from {before.key[:12]} before in:", "built", keyed.key, before.key, lines)


# --- gc, replay ---------------------------------------------------------------------------------------------


def collect(factory: Factory) -> None:
    """Keep the artifacts of the present plan, and others as long as they fit (`doit gc [size=GiB]`)."""
    from pipeline.store.gc import collect as collect_store

    max_bytes = int(number("size", _DEFAULT_GIB) * _GIB)
    keep = {artifact.key for node in factory.plan.nodes.values() if (artifact := factory.find(node)) is not None}
    done = collect_store(factory.store, keep=keep, max_bytes=max_bytes)
    in_use = f"; {done.kept_in_use} in use" if done.kept_in_use else ""
    sizes = f"{done.freed / _GIB:.2f} GiB freed, {done.left / _GIB:.2f} GiB left"
    factory.progress.say(f"store: {len(done.removed)} artifacts removed, {sizes}{in_use}")
    counts: dict[str, JsonValue] = {"freed": done.freed, "left": done.left, "in_use": done.kept_in_use}
    counts |= {"packages": _collect_packages(factory), "builders": _collect_builders(factory)}
    factory.progress.result("gc", {"removed": list(done.removed), **counts})


def _collect_packages(factory: Factory) -> int:
    """Remove packages of the channel that were made again since; return their number."""
    if factory.driver.mirror is None:
        return 0
    removed, freed = factory.driver.mirror.remove_superseded()
    if removed:
        factory.progress.say(f"channel {factory.plan.channel.name}: {removed} packages removed, {freed / _GIB:.2f} GiB freed")
    return removed


def _collect_builders(factory: Factory) -> int:
    """Remove images of builders that are no longer used; return their number. Without an engine or a lock, remove none."""
    from pipeline.build.builders import remove_old_builders

    try:
        removed = remove_old_builders(factory)
    except LockError:
        return 0
    except SandboxError as error:
        factory.progress.say(f"builders: not removed: {error.message}")
        return 0
    if removed:
        factory.progress.say(f"builders: {removed} images removed")
    return removed


def replay(factory: Factory) -> None:
    """Run one stage's script again on the terminal, and keep nothing (`doit replay stage=NAME [shell=1]`). Raises ConfigError."""
    from pipeline.build import replay as again

    name = variables().get("stage", "").removeprefix("stage:")
    if not name:
        raise ConfigError(
            "replay: which stage?", hint="./ci/doit replay stage=NAME, or stage=NAME:TARGET if there are several targets"
        )
    nodes = chosen_nodes(factory)
    found = [node for node in nodes.values() if isinstance(node, StageNode) and node.name == f"stage:{name}"]
    instances = found or [node for node in factory.plan.instances(name) if node.name in nodes]
    if len(instances) != 1:
        choices = [node.name.removeprefix("stage:") for node in instances] or list(factory.plan.stage_names)
        raise ConfigError(f"stage={name}: matches {len(instances)} stages", hint=f"one of: {', '.join(choices)}")
    node, shell = instances[0], variables().get("shell") == "1"
    if shell:
        again.check_terminal(factory.progress)
    factory.need_inputs(node)
    again.replay(factory.stage_run(node, factory.keys.of(node)), shell=shell)


def push(factory: Factory) -> None:
    """Let others pull what was built here (`doit cache:push cache=… key=… [passphrase=N] [cache-push=dirty,lab]`)."""
    from pipeline.cli.cache_push import push_all

    push_all(factory, variables())


# --- boot, test, verify -------------------------------------------------------------------------------------


def boot_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks that start a finished image in QEMU until it is up (`doit boot:<image>`)."""
    images = {(image.recipe, image.target): image for image in chosen_images(factory)}
    for name, place in BOOTS.items():
        image = images.get(place)
        if image is not None:
            yield task(
                f"boot:{name}",
                partial(boot, factory, name, image),
                doc=f"start {image.output} in QEMU, on this terminal, until it is up",
                row=TaskRow("boot", name),
                needs=[f"{image.recipe}:{image.target}"],
            )


def boot(factory: Factory, name: str, image: Image) -> None:
    """Boot a finished image, and end when it is up. Raises BootError."""
    from pipeline.cli.inputs import need_published
    from pipeline.images.boot import main_task

    path = need_published(factory, image).path
    with recorded(factory.paths, name, path):
        result = main_task(name, path)
    factory.progress.result(
        f"boot:{name}", {"image": path.name, "login_seconds": result.login_seconds, "ssh_seconds": result.ssh_seconds}
    )


def run_tests(paths: Paths, screen: Screen, words: Sequence[str]) -> None:
    """Run pytest on the terminal with the arguments, or with all tests if there are none (`doit test [arguments]`).

    Raises FactoryError.
    """
    sys.stdout.flush()
    # CI tells the tests that a missing tool is a failure (tests/conftest.py).
    ci = {"CI": os.environ["CI"]} if "CI" in os.environ else {}
    # Temporary files go below the checkout, so that the tests do not see this machine's /tmp.
    paths.build.mkdir(parents=True, exist_ok=True)
    with temporary_folder("test", paths.build) as folder:
        report = folder / "report.xml"
        options = [f"--junit-xml={report}"] if screen.json else []
        argv = (sys.executable, "-m", "pytest", *options, *(words or _ALL_TESTS))
        done = proc.run(argv, env=ci, timeout=_TEST_SECONDS, log=screen.output, check=False)
        screen.result("test", {"exit_status": done.status, **_counts(report)})
    if done.status:
        raise FactoryError(f"tests: pytest ended with exit status {done.status}", hint="its output is above")


def _counts(report: Path) -> dict[str, JsonValue]:
    """Return pytest's counts from its report; empty if pytest wrote no report."""
    if not report.is_file():
        return {}
    from xml.etree import ElementTree

    suites = ElementTree.fromstring(report.read_bytes()).findall("testsuite")  # noqa: S314  (pytest has just written it)
    names = ("tests", "failures", "errors", "skipped")
    return {name: sum(int(suite.get(name, "0")) for suite in suites) for name in names}


def acceptance(paths: Paths, screen: Screen) -> None:
    """Print the rows of docs/acceptance.md with the state of their tests, and write them as a page and as JSON (`doit qa`).

    Raises FactoryError if a test of a row failed.
    """
    from pipeline.cli.qa import count_states, read_rows
    from pipeline.cli.qa_page import page_of

    rows = read_rows(paths)
    for row in rows:
        screen.result("qa", row.json, row.lines)
    counts = count_states(rows)
    page, data = paths.build / "acceptance.html", paths.build / "acceptance.json"
    paths.build.mkdir(exist_ok=True)
    write(page, page_of(rows).encode(), lasting=False)
    write(
        data, json.dumps({"counts": dict(counts), "rows": [row.json for row in rows]}, indent=1).encode() + b"\n", lasting=False
    )
    text = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    told = [f"{len(rows)} rows: {text}", f"the same as a page: {page}", f"as JSON: {data}"]
    screen.result("qa-summary", {"rows": len(rows), "counts": dict(counts), "page": str(page), "json": str(data)}, told)
    failed = [row.number for row in rows if row.state == "failed"]
    if failed:
        raise FactoryError(f"qa: {', '.join(failed)} failed", hint="./ci/doit test runs the tests again")


def verify(factory: Factory) -> None:
    """Build all stages twice and compare (`doit verify:reproducible`). Raises FactoryError naming what differs."""
    from pipeline.release.reproducible import verify as verify_all

    def waiting() -> None:
        factory.progress.say("verify:reproducible: another process is running it in this checkout; waiting for it")

    with locked(factory.paths.build / "verify.guard", on_wait=waiting, check=factory.engine.check):
        report = verify_all(factory)
    counts: dict[str, JsonValue] = {"compared": report.compared, "differing": report.differing}
    factory.progress.result("verify:reproducible", {**counts, "lines": list(report.lines)}, report.lines)
    if report.differing:
        raise FactoryError(
            f"verify:reproducible: {report.differing} artifacts differ", hint="the lines above name the members that do"
        )
