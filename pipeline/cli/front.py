# SPDX-License-Identifier: Apache-2.0
"""doit as `python -m pipeline` runs it: expected errors come out of it as they are, for the one handler of all commands.

doit itself shows a traceback for what it does not know.
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
    """doit, whose commands hand expected errors over."""

    BIN_NAME = "./ci/doit"

    def get_cmds(self) -> Any:
        """All commands of doit, and of the plugins that somebody may have."""
        found = super().get_cmds()
        found.update({name: handing_over(found.get_plugin(name)) for name in found})
        return found


def handing_over(command: type[Command]) -> type[Command]:
    """The same command, from which expected errors come as `Passed`."""

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
