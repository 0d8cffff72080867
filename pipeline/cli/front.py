# SPDX-License-Identifier: Apache-2.0
"""Run doit so that expected errors leave it unchanged and reach the one handler of all commands.

doit itself shows a traceback for an exception that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doit.cmd_base import Command
from doit.doit_cmd import DoitMain

from pipeline.base.refused import expected


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
