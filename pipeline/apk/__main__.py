# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk`; `solve` and `verify` in their plain form import next to nothing, since they are asked often."""

from __future__ import annotations

import os
import sys

from pipeline.streams import ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return ended(lambda: _run(given))


def _run(given: Sequence[str]) -> int:
    if given[:1] == ["solve"]:
        from pipeline.apk import solver_command

        if wanted := solver_command.plain_request(given[1:]):
            return solver_command.run(wanted)
    if given[:1] == ["verify"]:
        from pipeline.apk import verify_command

        if request := verify_command.plain_request(given[1:]):
            return verify_command.run(request)
    from pipeline.apk import commands

    return commands.run(given)


if __name__ == "__main__":
    # Taking a pool of packages apart takes as long as solving.
    os._exit(main())
