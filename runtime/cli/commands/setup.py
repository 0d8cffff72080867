# SPDX-License-Identifier: Apache-2.0
"""`tower setup`: install TowerOS from the live system, encrypted, with a boot device; upgrade it, or replace that device."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base.errors import StateError, TowerError, ValueRefusedError
from tower.base.view import View

if TYPE_CHECKING:
    from tower.installer.answers import Answers

_CRYPTTAB: Final = Path("/etc/crypttab")
_LOCK: Final = Path("/run/tower/setup.lock")
_SIGNED: Final = ", with Secure Boot on again in the firmware's setup: the system is signed with the keys that it had"

EXAMPLES: Final = """\
examples:
  tower setup                                            ask for all, then install
  tower setup --answers /media/usb/answers --dry-run     show what would be wiped, and do nothing
  tower setup --answers /media/usb/answers               install, after one last question
  tower setup --answers /media/usb/answers --yes         the same, without asking
  tower setup --upgrade                                  replace an installed system, keep /home and the key
  tower setup --repair --key-file /media/usb/crypto_keyfile.bin --boot-device AA012345
                                                         make a new boot device for an installed system
  doas tower setup --secure-boot                         on the installed system: Secure Boot with keys of its own
  doas tower setup --sign                                there: make and sign anew what the firmware starts

The file has a line NAME='value' for each answer:
  ROOT_DISK='/dev/sda'          the disk of the system: a path, or the serial number
  BOOT_DEVICE='AA012345'        a removable one; it holds the key, and the machine starts with it alone
  USERNAME='alice'
  PASSWORD_HASH='$6$...'        as `openssl passwd -6` prints it
  SWAP='2G' KEYBOARD_LAYOUT='us' KEYBOARD_VARIANT='' TIMEZONE='UTC' LANG='C.UTF-8' DESKTOP='no' SECURE_BOOT='no'
                                each on a line of its own; these are the defaults

Both disks are wiped; with --upgrade none, with --repair the boot device alone. Everything is installed from the medium; no
network is used.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--answers", type=Path, metavar="FILE", help="a file with all answers (default: ask for them)")
    parser.add_argument("--upgrade", action="store_true", help="put this version in place of an installed one; /home stays")
    parser.add_argument("--repair", action="store_true", help="make a new boot device for an installed system, which stays")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="with --repair: a copy of the lost one's crypto_keyfile.bin"
    )
    parser.add_argument("--boot-device", metavar="DISK", help="with --repair: the new one, by path or serial number; it is wiped")
    parser.add_argument(
        "--secure-boot", action="store_true", help="on the installed system: give the firmware keys of this machine's own"
    )
    parser.add_argument("--sign", action="store_true", help="on the installed system: make and sign anew what is started")
    parser.add_argument("--dry-run", action="store_true", help="show what would be wiped and installed, do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before the disks are wiped")
    parser.add_argument("--json", action="store_true", help="print the plan as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Install, upgrade, repair or sign, after showing the plan and asking once; return 0. Raises TowerError."""
    from tower.base.files import locked, make_folders
    from tower.installer import disks, live_medium
    from tower.installer.answers import read_answers

    view = View(json=args.json)
    _check_together(args)
    if args.secure_boot or args.sign:
        return _sign(args, view)
    existing = args.upgrade or args.repair
    answers = read_answers(args.answers) if args.answers else None
    if answers is None and not existing and not sys.stdin.isatty():
        raise ValueRefusedError("the input is not a terminal to ask on", hint="give a file: --answers FILE")
    needs_root = existing or not args.dry_run
    if needs_root and os.geteuid() != 0:
        raise TowerError("only root can install", hint="log in as root, or use doas")
    if not needs_root:
        return _install(args, answers, view)
    live_medium.check_live(Path("/proc/mounts").read_text(errors="replace"))
    make_folders(_LOCK.parent, 0o755)
    with locked(_LOCK, busy="another `tower setup` is running"):
        disks.release()
        if existing:
            return _upgrade(args, view) if args.upgrade else _repair(args, view)
        return _install(args, answers, view)


def _check_together(args: argparse.Namespace) -> None:
    """Raise ValueRefusedError for options of which one does not apply to the other."""
    own = [name for name in ("--secure-boot", "--sign") if getattr(args, name[2:].replace("-", "_"))]
    others = [name for name in ("--answers", "--upgrade", "--repair") if getattr(args, name[2:])]
    if len(own) > 1 or (own and others):
        raise ValueRefusedError(
            f"{own[0]} and {[*own[1:], *others][0]} exclude each other", hint=f"leave out one: {own[0]} is alone"
        )
    if args.upgrade and args.repair:
        raise ValueRefusedError("--upgrade and --repair exclude each other", hint="first one, then the other")
    if args.upgrade and args.answers:
        raise ValueRefusedError("--answers does not apply to an upgrade", hint="leave out --answers, or --upgrade")
    if args.repair and args.answers:
        raise ValueRefusedError("--answers does not apply to a repair", hint="leave out --answers, or --repair")
    if args.repair and not (args.key_file and args.boot_device):
        raise ValueRefusedError(
            "--repair needs a key and a disk for the new boot device", hint="add --key-file FILE --boot-device DISK"
        )
    if not args.repair and (args.key_file or args.boot_device):
        raise ValueRefusedError("--key-file and --boot-device apply to --repair alone", hint="add --repair, or leave them out")


def _install(args: argparse.Namespace, answers: Answers | None, view: View) -> int:
    from tower.disk.device import list_disks
    from tower.installer import firmware, live_medium
    from tower.installer.ask import ask
    from tower.installer.installation import SystemInstallation
    from tower.installer.plan import make_plan

    found = list_disks()
    if answers is None:
        answers = ask(found, setup_mode=firmware.mode() is firmware.Mode.SETUP)
    if answers.secure_boot:
        firmware.need_setup_mode()
    plan = make_plan(answers, found)
    view.show(plan.rows())
    if args.dry_run:
        return 0
    source = live_medium.find_medium()
    view.confirm(f"All on {plan.root} and on {plan.boot} will be lost. Go on?", yes=args.yes)
    SystemInstallation(plan, source, view).run()
    view.say(f"installed: take the medium out, leave {plan.boot.path} in, and restart; without it this machine does not start")
    return 0


def _upgrade(args: argparse.Namespace, view: View) -> int:
    from tower.disk.device import list_disks
    from tower.installer import live_medium, system
    from tower.installer.existing import find_existing
    from tower.installer.installation import SystemUpgrade

    source = live_medium.find_medium()
    with view.step("getting tools from the medium"):
        system.add_tools()
    old = find_existing(list_disks())
    view.show(old.rows())
    if args.dry_run:
        return 0
    view.confirm(f"The system on {old.root} will be replaced, and /home kept. Go on?", yes=args.yes)
    run = SystemUpgrade(old, source, view)
    run.run()
    view.say(f"upgraded: take the medium out, and restart{_SIGNED if run.signed else ''}")
    view.say("install again what you had added: doas apk add, or tower install thinclient (~/.local/tower/thinclient.world)")
    return 0


def _repair(args: argparse.Namespace, view: View) -> int:
    from tower.disk.device import list_disks
    from tower.installer import live_medium, system
    from tower.installer.existing import find_root, read_key
    from tower.installer.installation import BootDeviceRepair
    from tower.installer.plan import new_boot_device

    key = read_key(args.key_file)
    source = live_medium.find_medium()
    with view.step("getting tools from the medium"):
        system.add_tools()
    found = list_disks()
    old = find_root(found, key)
    run = BootDeviceRepair(old, new_boot_device(args.boot_device, old.root, found), source, view)
    view.show(run.rows())
    if args.dry_run:
        return 0
    view.confirm(f"All on {run.boot} will be lost. Go on?", yes=args.yes)
    run.run()
    view.say(
        f"repaired: take the medium out, leave {run.boot.path} in, and restart{_SIGNED if run.signed else ''}; "
        "keep the copy of the key in a safe place"
    )
    return 0


def _sign(args: argparse.Namespace, view: View) -> int:
    """On the installed system: sign what the firmware starts, and with --secure-boot give it the keys for that before."""
    from tower.base.files import locked, make_folders
    from tower.installer import firmware, signing, system

    root = Path("/")
    if os.geteuid() != 0:
        raise TowerError("only root can sign what is started", hint="use doas")
    luks = system.encrypted_root(_CRYPTTAB)
    signing.check_tools(root)
    new = not signing.has_keys(root)
    if args.secure_boot:
        firmware.need_setup_mode()
        view.show(
            {
                "boot_device": f"/{signing.START}: kernel and initramfs in one signed file, in place of the boot loaders",
                "firmware": f"gets {'new keys' if new else 'the keys'} in /{signing.FOLDER}, and then starts nothing else",
            }
        )
    elif new:
        raise StateError(f"/{signing.FOLDER}: this system has no keys to sign with", hint="doas tower setup --secure-boot")
    if args.dry_run:
        return 0
    if args.secure_boot:
        view.confirm("From then on this machine starts only what it has signed itself. Go on?", yes=args.yes)
    make_folders(_LOCK.parent, 0o755)
    with locked(_LOCK, busy="another `tower setup` is running"):
        if new:
            with view.step("making keys"):
                signing.make_keys(root)
        with view.step("signing what is started"):
            system.sign(root, luks)
        if args.secure_boot:
            with view.step("giving the firmware its keys"):
                firmware.enrol(signing.variables(root))
            view.say("done: restart this machine; see that Secure Boot is on in its firmware's setup, and set a password there")
    return 0
