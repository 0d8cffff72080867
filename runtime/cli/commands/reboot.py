# SPDX-License-Identifier: Apache-2.0
"""`tower reboot HOST...`: restart hosts."""

from __future__ import annotations

import argparse
from typing import Final

from tower.cli.commands.poweroff import declare, obey
from tower.status.power import Order

EXAMPLES: Final = """\
examples:
  tower reboot web
  tower reboot --all                all hosts, the router last
  tower reboot web vault --yes      without asking, for scripts
  tower reboot web --no-wait        do not wait until it is back

A host is back when it answers after its system has restarted; one that never went down is not back.
The exit status is 0 if all hosts are back, else 15.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    declare(parser, Order.REBOOT)


def execute(args: argparse.Namespace) -> int:
    """Restart hosts; return the exit status."""
    return obey(args, Order.REBOOT)
