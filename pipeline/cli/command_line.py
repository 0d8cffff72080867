# SPDX-License-Identifier: Apache-2.0
"""Read the command line's variables, and configure doit from them: the factory, its reporter, its settings."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doit import doit_cmd

from pipeline.base.errors import ConfigError
from pipeline.base.paths import Paths, check_checkout
from pipeline.base.progress import Screen
from pipeline.base.refused import expected
from pipeline.base.streams import show
from pipeline.build.factory import Factory
from pipeline.cli import unchanged
from pipeline.cli.heeded import check_heeded
from pipeline.cli.report import Events, Lines
from pipeline.cli.tasks import chosen_images
from pipeline.plan.nodes import SUFFIXES, Settings
from pipeline.plan.planner import load_plan

VARIABLES = (
    "apk-format",
    "cache",
    "cache-key",
    "cache-push",
    "channel",
    "clock",
    "compress",
    "days",
    "dir",
    "dry-run",
    "file",
    "json",
    "key",
    "machines",
    "need",
    "older-index",
    "passphrase",
    "rebuilders",
    "shell",
    "size",
    "stage",
    "target",
    "version",
)
SWITCHES = ("json", "shell")
"""Variables that take the value 1 or are left out."""
ENGINE = "engine."
"""The prefix of an architecture's name in the variable that chooses the container engine for its stages."""


class _Told(Screen):
    """The screen of a run; what it says about its work is said again only by a run that works again."""

    def say(self, text: str) -> None:
        """Print a line for the user."""
        unchanged.acting()
        super().say(text)


def open_factory(checkout: Path) -> Factory:
    """Return the factory of a checkout, configured by the variables of the command line.

    Ends the process, with the error's text and status, if the configuration is wrong.
    """
    _end_with_the_reader_of_listings()
    with _ended_by_errors():
        return _open(checkout)


@contextmanager
def _ended_by_errors() -> Iterator[None]:
    """End the process on an expected error, with its text and status: doit would show a traceback here."""
    try:
        yield
    except Exception as found:
        error = expected(found)
        if error is None:
            raise
        if wants_json():
            Screen().event({"event": "error", "error": f"error: {error}", "exit_status": error.exit_status})
        raise SystemExit(show(error)) from None


def _open(checkout: Path) -> Factory:
    given = variables()
    settings = Settings(
        channel=given.get("channel", Settings().channel),
        target=given.get("target", ""),
        compress=given.get("compress", Settings().compress),
        apk_format=int(given.get("apk-format", 0)),
        engines={name.removeprefix(ENGINE): value for name, value in given.items() if name.startswith(ENGINE)},
    )
    check_checkout(checkout)
    paths = Paths(checkout)
    plan = load_plan(paths, settings)
    if settings.target and settings.target not in {image.target for image in plan.images}:
        known = ", ".join(dict.fromkeys(image.target for image in plan.images))
        raise ConfigError(f"target={settings.target}: there is no such target", hint=f"one of: {known}")
    for arch in sorted(set(settings.engines) - set(plan.channel.architectures)):
        raise ConfigError(
            f"{ENGINE}{arch}={settings.engines[arch]}: channel {plan.channel.name} has no such architecture",
            hint=f"one of: {', '.join(f'{ENGINE}{name}=' for name in plan.channel.architectures)}",
        )
    if "cache" in given:
        from pipeline.store.cache.oci import RegistryPlace

        RegistryPlace.parse(given["cache"])
    return Factory(plan, paths, _Told(json=wants_json()), clock=given.get("clock", ""), given=given)


def _end_with_the_reader_of_listings() -> None:
    """Let doit's own listings end as `cat` does when the reader goes away (`| head`); a build goes on, see `Screen`."""
    words = [word for word in sys.argv[1:] if "=" not in word and not word.startswith("-")]
    if words[:1] in (["list"], ["info"]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def wants_json() -> bool:
    """Tell whether the command line says json=1."""
    return bool(doit_cmd.get_var("json") == "1")


def variables() -> dict[str, str]:
    """Return the `name=value` words of the command line. Raises ConfigError for a name that no task knows."""
    # A private name, because doit has no public list of them: `get_var` returns one by its name.
    given: dict[str, str] = dict(getattr(doit_cmd, "_CMDLINE_VARS", None) or {})
    for name, value in given.items():
        if name not in VARIABLES and not name.startswith(ENGINE):
            known = ", ".join([*VARIABLES, f"{ENGINE}ARCHITECTURE"])
            raise ConfigError(f"{name}={value}: there is no such variable", hint=f"known: {known}")
    if given.get("compress", "zstd") not in SUFFIXES:
        raise ConfigError(f"compress={given['compress']}: unknown", hint=f"one of: {', '.join(SUFFIXES)}")
    if given.get("apk-format", "2") not in ("2", "3"):
        raise ConfigError(f"apk-format={given['apk-format']}: unknown", hint="apk-format=2 or apk-format=3")
    for name in SWITCHES:
        if given.get(name, "1") != "1":
            raise ConfigError(f"{name}={given[name]}: unknown", hint=f"{name}=1, or leave it out")
    return given


def number(name: str, default: float) -> float:
    """Return a variable as a number, 0 or more. Raises ConfigError for anything else."""
    given = variables().get(name, "")
    try:
        found = float(given or default)
    except ValueError:
        found = -1
    if not 0 <= found < float("inf"):
        raise ConfigError(f"{name}={given}: not a number, 0 or more", hint=f"for example: {name}=10")
    return found


def config(factory: Factory) -> dict[str, Any]:
    """Return the settings that dodo.py gives doit."""
    kind = Events if wants_json() else Lines

    def check(tasks: Iterable[str]) -> None:
        with _ended_by_errors():
            check_heeded(tasks, variables(), factory.plan)

    reporter = type(
        kind.__name__,
        (kind,),
        {
            "screen": factory.progress,
            "check": staticmethod(check),
            "begin": staticmethod(factory.engine.stop_on_signals),
            "stop": staticmethod(factory.stop),
        },
    )
    return {
        "default_tasks": list(dict.fromkeys(image.recipe for image in chosen_images(factory))),
        # doit's database is kept in memory: only our store decides what is built, and two runs do not share a file.
        "backend": "sqlite3",
        "dep_file": ":memory:",
        "reporter": reporter,
        "num_process": 2,
        "par_type": "thread",
        "minversion": "0.36.0",
        "sort": "definition",
    }
