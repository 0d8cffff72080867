# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk`; `solve` and `verify` in their plain form import next to nothing, since they are run often."""

from __future__ import annotations

import os
import sys

from pipeline.base.streams import ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return ended(lambda: _run(given))


def _run(given: Sequence[str]) -> int:
    if given[:1] == ["solve"]:
        from pipeline.apk.cli import solve

        if wanted := solve.plain_request(given[1:]):
            return solve.run(wanted)
    if given[:1] == ["verify"]:
        from pipeline.apk.cli import verify

        if request := verify.plain_request(given[1:]):
            return verify.run(request)
    from pipeline.apk.cli import commands

    return commands.run(given)


if __name__ == "__main__":
    # Freeing a pool of packages takes as long as solving.
    os._exit(main())
