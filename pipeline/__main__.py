# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline`: run doit for this checkout, as ./ci/doit does, with every error shown as one of ours."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from pipeline.base.errors import ConfigError
from pipeline.base.streams import ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run doit; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return ended(lambda: _run(given))


def _run(words: list[str]) -> int:
    if "" in words:
        raise ConfigError("the command line has an empty word, which names no task", hint="./ci/doit list shows all tasks")
    from pipeline.cli import unchanged

    began = time.monotonic()
    watch = unchanged.watch(words)
    if watch is not None:
        if unchanged.answer_again(watch, lambda: time.monotonic() - began):
            return 0
        unchanged.begin(watch)
    # After the streams were made usable: doit keeps the output streams that it finds when it is imported.
    from pipeline.cli.front import Doit, Passed

    try:
        status = int(Doit().run(words))
    except Passed as passed:
        raise passed.error from None
    if watch is not None and status == 0:
        watch.keep()
    return status


if __name__ == "__main__":
    sys.exit(main())
