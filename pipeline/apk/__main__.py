# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk`; `solve` in its plain form takes a way that imports next to nothing, since it is asked often."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["solve"]:
        from pipeline.apk.solver_command import plain_request, run

        if request := plain_request(given[1:]):
            return run(request)
    from pipeline.apk import commands

    return commands.main(given)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking a pool of packages apart takes as long as solving.
    os._exit(status)
