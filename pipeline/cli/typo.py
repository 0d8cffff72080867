# SPDX-License-Identifier: Apache-2.0
"""Replace doit's text about an unknown word on the command line by our error, with the names that look like the word.

doit raises one exception for this, catches it itself, shows its text and ends with status 3; so the text is all that
can be replaced.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from doit.exceptions import InvalidCommand

from pipeline.base.errors import ConfigError

_COMMANDS = ("clean", "forget", "help", "ignore", "info", "list", "run")
_NO_TASK = re.compile(r"'(.+)' is not a task\.")
_CLOSE = 0.6
_SHOWN = 3


def names_of(made: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of tasks on the command line."""
    return [f"{task['basename']}:{task['name']}" if task.get("name") else str(task["basename"]) for task in made]


def unknown(word: str, known: Sequence[str]) -> ConfigError:
    """Return the error about a word that is not in `known`."""
    near = difflib.get_close_matches(word, known, n=_SHOWN, cutoff=_CLOSE)
    # stage:host-root for host-root: their texts are not much alike.
    near += [name for name in known if word in name.split(":") and name not in near]
    start = f"did you mean {' or '.join(near[:_SHOWN])}? " if near else ""
    return ConfigError(f"{word}: there is no such task", hint=f"{start}./ci/doit list shows all tasks")


def explain_unknown(made: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Give doit's exception for unknown words our text; `made` returns all tasks, and is called only when they are needed."""
    before = InvalidCommand.__str__

    def text(error: Any) -> str:
        said = before(error)
        found = _NO_TASK.fullmatch(said)
        word = error.not_found or (found[1] if found else None)
        return str(unknown(word, [*_COMMANDS, *dict.fromkeys(names_of(made()))])) if word else said

    InvalidCommand.__str__ = text
