# SPDX-License-Identifier: Apache-2.0
"""Write what `tower` says about itself: the page of Markdown, the man pages, and a completion for each shell.

    python3 write.py OUT

Each call of the command has a process of its own, forked from this one, which has loaded the program: that costs more
than all the calls, since nothing of it is compiled.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

try:
    from tower.cli.main import main, make_parser
except ImportError as error:
    sys.exit(f"error: source runtime or input device: no program tower that runs: {error}")

COMPLETIONS = {
    "bash": "bash-completion/completions/tower",
    "zsh": "zsh/site-functions/_tower",
    "fish": "fish/vendor_completions.d/tower.fish",
}


def write(path: Path | None, *words: str) -> None:
    """Run `tower` with these words; what it prints goes into a new file. Ends this process with its status if it fails."""
    child = os.fork()
    if not child:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), 1)
        sys.exit(main(words))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        sys.exit(f"tower {' '.join(words)}: exit status {status}")


def write_all(out: Path) -> None:
    """Write all files below `out`; those for the thin client's file system are in `out/tree`."""
    share = out / "tree/usr/share"
    manual = share / "man/man1"
    manual.mkdir(parents=True)
    make_parser(None)
    write(out / "commands.md", "mdhelp")
    write(None, "mdhelp", "--man", str(manual))
    for shell, path in COMPLETIONS.items():
        write(share / path, "completion", shell)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
