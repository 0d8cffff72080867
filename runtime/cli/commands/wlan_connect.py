# SPDX-License-Identifier: Apache-2.0
"""`tower wlan-connect SSID`: let the router join another Wi-Fi network."""

from __future__ import annotations

import argparse
from typing import Final

from tower.base.errors import ValueRefusedError
from tower.base.names import ROUTER, parse_ssid, parse_ssid_hex, ssid_text
from tower.base.view import View, read_secret
from tower.hosts import secret
from tower.hosts.env import Wlan
from tower.hosts.registry import tower_of_user
from tower.install.connection import connect
from tower.status import wlan

EXAMPLES: Final = """\
examples:
  tower wlan-connect Home                      ask for the password
  tower wlan-connect Home <password.txt        read it from a file's first line
  tower wlan-connect --hex 636166e9            a name that cannot be typed, by its bytes

While the router changes networks, online hosts have no Internet. If it is not connected, with an address, within the
time given, it goes back to the previous network. The password itself is not stored, only a key derived from it.
Instead of the password, you can give the key: 64 hexadecimal digits, as wpa_passphrase prints them.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("ssid", metavar="SSID", help="the network's name")
    parser.add_argument("--hex", action="store_true", help="the name is given as bytes in hexadecimal")
    parser.add_argument("--timeout", type=int, default=60, metavar="SECONDS", help="to connect (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Ask for the password, let the router join, and save the network; return the exit status. Raises ValueRefusedError."""
    view, tower = View(json=args.json), tower_of_user()
    ssid = parse_ssid_hex(args.ssid) if args.hex else parse_ssid(args.ssid)
    name = ssid_text(ssid)
    if not 1 <= args.timeout <= wlan.LONGEST:
        raise ValueRefusedError(f"--timeout is {args.timeout}, expected 1 to {wlan.LONGEST} seconds")
    router = tower.host(ROUTER)
    found = Wlan(ssid, secret.wlan_key(ssid, read_secret(f"password of '{name}'", env_hint="give it as a line on stdin")))
    with connect(tower, router) as session:
        with view.step(f"{ROUTER}: joining '{name}'"):
            wlan.join(session, found, limit=args.timeout)
        wlan.keep(tower, router, found)
    view.show({"host": ROUTER, "wlan": name, "state": "connected"})
    return 0
