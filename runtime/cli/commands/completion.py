# SPDX-License-Identifier: Apache-2.0
"""`tower completion SHELL`: print a script that completes the words of `tower`, including the names of hosts."""

from __future__ import annotations

import argparse
from typing import Final

from tower.base import streams

SHELLS: Final = ("bash", "zsh", "fish")
EXAMPLES: Final = """\
examples:
  tower completion bash > ~/.local/share/bash-completion/completions/tower
  tower completion fish > ~/.config/fish/completions/tower.fish
  tower completion zsh > ~/.zfunc/_tower

An installed thin client has all three already.
"""
_HOSTS: Final = {"bash": "_tower_hosts", "zsh": "_tower_hosts", "fish": "(_tower_hosts)"}
"""The function that completes a host's name, once the text below is read."""
_TEXTS: Final = {
    "bash": """\
_tower_hosts() {
  local host before=
  [[ "$1" == *,* ]] && before="${1%,*},"
  for host in "$HOME"/.local/tower/hosts/*/; do
    host="${host%/}" host="${host##*/}"
    [[ "$host" != '*' && "$before$host" == "$1"* ]] && printf '%s\\n' "$before$host"
  done
}
""",
    "zsh": """\
_tower_hosts() {
  local -a found
  found=("$HOME"/.local/tower/hosts/*(/N:t))
  compset -P '*,'
  compadd -- $found
}
""",
    "fish": """\
function _tower_hosts
  set -l before (string match -r '^.*,' -- (commandline -ct))
  for host in $HOME/.local/tower/hosts/*/
    printf '%s%s\\n' "$before" (basename $host)
  end
end
""",
}
"""Hosts are the folders of ~/.local/tower/hosts; several are joined by commas."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read it")


def execute(args: argparse.Namespace) -> int:
    """Write the script to stdout; return the exit status."""
    import shtab
    from tower.cli.main import make_parser

    parser = make_parser(None)
    for action in parser._actions:  # noqa: SLF001  (argparse has no public list of them)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  (argparse has no public list of them)
            for sub in action.choices.values():
                _complete_values(sub, shtab.FILE, shtab.DIRECTORY)
    text = shtab.complete(parser, shell=args.shell, preamble=_TEXTS[args.shell])
    if args.shell == "zsh":
        # For a repeatable argument, zsh would read these as a single one.
        text = text.replace('"(*)::', '"*:').replace('"(*):', '"*:')
    streams.show(text.rstrip("\n") + "\n")
    return 0


def _complete_values(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Tell shtab the kind of each value, by its name in the help."""
    known = {"HOST": _HOSTS, "HOSTS": _HOSTS, "NAME": _HOSTS, "FILE": file, "DEVICE": file, "FOLDER": folder}
    for action in parser._actions:  # noqa: SLF001  (argparse has no public list of them)
        if isinstance(action.metavar, str) and action.metavar in known and not hasattr(action, "complete"):
            action.complete = known[action.metavar]  # type: ignore[attr-defined]
