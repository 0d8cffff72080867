# SPDX-License-Identifier: Apache-2.0
"""Run doit so that expected errors leave it unchanged and reach the one handler of all commands.

doit itself shows a traceback for an exception that it does not know, and takes each word with `=` for a variable, even in a
command for another program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from doit import doit_cmd
from doit.cmd_base import Command
from doit.doit_cmd import DoitMain

from pipeline.base.refused import expected
from pipeline.cli.command_line import VARIABLES

_REMOTE: Final = "sim:ssh"
"""After this task's name come a machine and a command for it: all its words are the machine's."""
_PYTEST: Final = "test"
"""The words after this task's name are pytest's, unless one names a variable."""


class Passed(BaseException):
    """Carries an expected error through doit."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Doit(DoitMain):  # type: ignore[misc]
    """doit, with commands that pass expected errors on."""

    BIN_NAME = "./ci/doit"

    def get_cmds(self) -> Any:
        """Return all commands of doit and of the user's plugins."""
        found = super().get_cmds()
        found.update({name: handing_over(found.get_plugin(name)) for name in found})
        return found

    @staticmethod
    def process_args(cmd_args: Sequence[str]) -> list[str]:
        """Set the variables of the command line, and return the other words."""
        doit_cmd.reset_vars()
        kept: list[str] = []
        for word in cmd_args:
            name, sign, value = word.partition("=")
            if not sign or word.startswith("-") or _is_for_others(name, kept):
                kept.append(word)
            else:
                doit_cmd.set_var(name, value)
        return kept


def _is_for_others(name: str, before: Sequence[str]) -> bool:
    """Tell whether a word `name=...` is for the program that a task starts; `before` are the words that are no variables."""
    if _REMOTE in before:
        return before[-1] != _REMOTE
    return _PYTEST in before and name not in VARIABLES


def handing_over(command: type[Command]) -> type[Command]:
    """Return a subclass of a command that raises expected errors as `Passed`."""

    class HandingOver(command):  # type: ignore[misc]
        name = command.get_name()

        def parse_execute(self, in_args: Sequence[str]) -> Any:
            try:
                return super().parse_execute(in_args)
            except Exception as error:
                if expected(error) is None:
                    raise
                raise Passed(error) from error

    return HandingOver
