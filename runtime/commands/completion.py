# SPDX-License-Identifier: Apache-2.0
"""`tower completion SHELL`: what a shell needs to complete the words of `tower`."""

from __future__ import annotations

import argparse
import sys
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")
EXAMPLES: Final = """\
examples:
  tower completion bash > ~/.local/share/bash-completion/completions/tower
  tower completion fish > ~/.config/fish/completions/tower.fish
  tower completion zsh > ~/.zfunc/_tower
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS)


def execute(args: argparse.Namespace) -> int:
    """Write the script to stdout."""
    import shtab
    from tower.cli import make_parser

    sys.stdout.write(shtab.complete(make_parser(None), shell=args.shell).rstrip("\n") + "\n")
    return 0
