# SPDX-License-Identifier: Apache-2.0
"""`tower mdhelp`: print the manual of all commands as Markdown, or write it as man pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tower.base import streams

EXAMPLES: Final = """\
examples:
  tower mdhelp | less
  tower mdhelp --man ~/.local/share/man/man1

The text is that of `--help`. An installed thin client has the pages already: `man tower`, `man tower-install`.
The date of man pages is SOURCE_DATE_EPOCH of the environment, or today's.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--man", type=Path, metavar="FOLDER", help="write a man page for each command into this folder instead")


def execute(args: argparse.Namespace) -> int:
    """Print the manual, or write it; return the exit status."""
    from tower.base.version import tower_version
    from tower.cli import manual

    made = manual.pages()
    if args.man is None:
        streams.show(manual.markdown(made))
        return 0
    date, version = _date(), tower_version()
    for page in made:
        _write(args.man / f"{page.name}.1", manual.man_page(page, date=date, version=version))
    streams.show(f"{args.man}: {len(made)} pages\n")
    return 0


def _date() -> str:
    import os
    import time

    from tower.base.errors import ValueRefusedError

    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise ValueRefusedError(f"SOURCE_DATE_EPOCH is {given!r}, expected seconds since 1970")
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(int(given) if given else time.time()))
    except (OverflowError, ValueError, OSError):
        raise ValueRefusedError(f"SOURCE_DATE_EPOCH is {given}, which is not a date") from None


def _write(path: Path, text: str) -> None:
    from tower.base.files import make_folders, write_file
    from tower.base.refused import in_our_words

    with in_our_words(path.parent, hint="it must be a folder that you can write to"):
        make_folders(path.parent)
    write_file(path, text.encode(), mode=0o644)
