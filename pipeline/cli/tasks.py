# SPDX-License-Identifier: Apache-2.0
"""The interface to doit: `task` makes every task, and only our store decides what is up to date.

doit orders the tasks and runs them in threads; its own database is kept in memory and thrown away, so that two runs
at the same time do not share it. Expected errors reach the user unchanged, without a traceback.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from pipeline.base.errors import FactoryError
from pipeline.base.files import disk_full, is_full
from pipeline.base.paths import cache_home
from pipeline.base.refused import expected
from pipeline.base.streams import show
from pipeline.build.factory import Factory
from pipeline.cli.report import TaskRow
from pipeline.plan.nodes import ChannelNode, Image, Node, StageNode, is_folder

Task = dict[str, Any]


class FailedTask(TaskFailed):  # type: ignore[misc]
    """A failed task, as doit knows it, with the error that the reporter shows."""

    def __init__(self, error: FactoryError) -> None:
        super().__init__(error.message)
        self.error = error


def task(
    name: str,
    action: Callable[[], None] | Callable[[Sequence[str]], None] | None,
    *,
    doc: str,
    row: TaskRow | None = None,
    needs: Sequence[str] = (),
    fresh: Callable[[], bool] | None = None,
    clean: Callable[[], None] | None = None,
    group: str = "",
    arguments: bool = False,
    options: Sequence[Mapping[str, Any]] = (),
) -> Task:
    """Return one task of doit.

    `fresh` tells whether there is nothing to do; without it the task always runs. With `group` it is a subtask of
    that name. With `arguments` the action is given the words after the task's name on the command line.
    """
    line = row or TaskRow(name, quiet=True)
    made: Task = {"doc": doc, "task_dep": list(needs), "meta": {"row": line}, "verbosity": 0, "io": {"capture": False}}
    made |= {"basename": group, "name": name.removeprefix(f"{group}:")} if group else {"basename": name}
    made["actions"] = [_guarded(action, line, arguments)] if action is not None else []
    made["uptodate"] = [_asked(fresh, line)] if fresh is not None else [action is None]
    if clean is not None:
        made["clean"] = [(_shown(clean), [])]
    if arguments:
        made |= {"pos_arg": "arguments", "params": list(options)}
    return made


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an error of the system (no space, no permission) into one of ours, wherever it occurred."""
    try:
        yield
    except FactoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_full(error):
            raise disk_full(Path(error.filename) if error.filename else _fullest(), error) from error
        ours = expected(error)
        if ours is None:
            raise
        raise ours from error


def _fullest() -> Path:
    """Return the written folder with the least free space: an ENOSPC error does not say which file it was about."""
    free = dict[Path, int]()
    for find in (lambda: "build", cache_home, tempfile.gettempdir):
        with suppress(FactoryError, OSError):  # there may be no home, and no space for temporary files
            free[Path(find())] = shutil.disk_usage(find()).free
    return min(free, key=free.__getitem__, default=Path("build"))


def _guarded(action: Callable[..., None], row: TaskRow, arguments: bool) -> Callable[..., Any]:
    def run(*given: Sequence[str]) -> FailedTask | None:
        try:
            with _explained():
                action(*given)
        except FactoryError as error:
            row.error = error
            return FailedTask(error)
        return None

    def act() -> FailedTask | None:
        return run()

    def act_on(arguments: Sequence[str], **options: Any) -> FailedTask | None:
        words = [
            word for name, value in options.items() if value for word in ([f"-{name}"] if value is True else [f"-{name}", value])
        ]
        return run([*words, *(arguments or ())])

    return act_on if arguments else act


def _asked(fresh: Callable[[], bool], row: TaskRow) -> Callable[[], bool]:
    def answer() -> bool:
        try:
            with _explained():
                return fresh()
        except FactoryError as error:
            # doit would show a traceback; the action meets the same error again, where it is shown well.
            row.error = error
            return False

    return answer


def _shown(clean: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        try:
            with _explained():
                clean()
        except FactoryError as error:
            show(error)

    act.__qualname__ = "remove what it made"  # doit shows it
    return act


# --- tasks --------------------------------------------------------------------------------------------------


def image_tasks(factory: Factory, recipe: str, doc: str) -> Iterator[Task]:
    """Yield the task `doit <recipe>`, and a subtask for each target."""
    from pipeline.cli import inputs
    from pipeline.images import publish

    yield {"basename": recipe, "name": None, "doc": doc}
    for image in chosen_images(factory):
        if image.recipe != recipe:
            continue
        row = TaskRow(recipe, image.target)

        def place(image: Image = image) -> None:
            inputs.publish_image(factory, image)

        def fresh(image: Image = image, row: TaskRow = row) -> bool:
            artifact = factory.find(factory.plan.nodes[image.final])
            row.key = artifact.key if artifact is not None else ""
            return artifact is not None and inputs.find_published(factory, image) is not None

        def clean(image: Image = image) -> None:
            publish.withdraw(inputs.destination(factory), image)

        yield task(
            f"{recipe}:{image.target}",
            place,
            doc=f"{image.output}",
            row=row,
            needs=[image.final],
            fresh=fresh,
            clean=clean,
            group=recipe,
        )


def chosen_images(factory: Factory) -> tuple[Image, ...]:
    """Return the images for the target that `target=` names; without it, all images."""
    return tuple(image for image in factory.plan.images if factory.plan.settings.target in ("", image.target))


def chosen_nodes(factory: Factory) -> dict[str, Node]:
    """Return the nodes that the chosen images are made of, by name, in building order."""
    return {node.name: node for node in factory.plan.needs(image.final for image in chosen_images(factory))}


def stage_tasks(factory: Factory) -> Iterator[Task]:
    """Yield `doit stage:<name>` and, for stages that differ by target, `doit stage:<name>:<target>`."""
    for stage in factory.plan.stage_names:
        instances = factory.plan.instances(stage)
        summary = instances[0].spec.summary
        if len(instances) == 1 and not instances[0].target:
            yield _node_task(factory, instances[0], doc=summary, group="")
            continue
        name = f"stage:{stage}"
        yield {"basename": name, "name": None, "doc": summary}
        target = factory.plan.settings.target
        chosen = [node for node in instances if node.target == target] or instances
        for node in instances:
            made = _node_task(factory, node, doc=f"{summary} ({node.target})", group=name if node in chosen else "")
            yield made


def channel_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks of the channel: lock, downloads, builder, repositories, keys."""
    yield {
        "basename": "channel",
        "name": None,
        "doc": f"lock, builder and repositories of the channel {factory.plan.channel.name}",
    }
    made = [node for node in factory.plan.nodes.values() if isinstance(node, ChannelNode) and not is_folder(node)]

    def all_there() -> bool:
        return no_builder_wanted() and all(factory.find(node) is not None for node in made)

    def no_builder_wanted() -> bool:
        stages = (node for node in factory.plan.nodes.values() if isinstance(node, StageNode))
        return factory.builder_known() or all(factory.find(node) is not None for node in stages)

    def lock() -> None:
        factory.make_lock(again=False)

    def builder() -> None:
        factory.builder()

    def part(name: str, action: Callable[[], None], fresh: Callable[[], bool], needs: Sequence[str], doc: str) -> Task:
        return task(f"channel:{name}", action, doc=doc, row=TaskRow(name, "channel"), needs=needs, fresh=fresh, group="channel")

    yield part("lock", lock, factory.lock_fits, [], "choose the packages")
    yield part("fetch", factory.fetch, all_there, ["channel:lock"], "download what the lock names")
    yield part("builder", builder, no_builder_wanted, ["channel:fetch"], "the container image that stages run in")
    for node in made:
        yield _node_task(factory, node, doc=f"{node.what} {node.arch}".strip(), group="channel")


def _node_task(factory: Factory, node: Node, *, doc: str, group: str) -> Task:
    stage = isinstance(node, StageNode)
    elsewhere = isinstance(node, StageNode) and factory.plan.engine_of(node.arch)
    row = (
        TaskRow(node.stage, node.target, counted=True)
        if isinstance(node, StageNode)
        else TaskRow(node.what, node.arch or "channel")
    )
    needs = (
        [name for name in node.inputs.values() if not is_folder(factory.plan.nodes[name])] if isinstance(node, StageNode) else []
    )

    def fresh() -> bool:
        artifact = factory.find(node)
        if artifact is not None:
            row.key, row.state = artifact.key, "cached"
        return artifact is not None

    def build() -> None:
        row.state = ""
        built = factory.build(node)
        row.key, row.state, row.seconds = built.artifact.key, built.state, built.seconds

    def clean() -> None:
        factory.discard(node)

    return task(
        node.name,
        build,
        doc=doc,
        row=row,
        # The builder of another engine is made when the first stage is about to run there.
        needs=[*needs, "channel:builder" if stage and not elsewhere else "channel:fetch"],
        fresh=fresh,
        clean=clean if stage else None,
        group=group,
    )
