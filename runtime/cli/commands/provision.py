# SPDX-License-Identifier: Apache-2.0
"""`tower provision NAME`: make a host: its keys, its disk, and its first answer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tower.base.errors import StoppedError, TowerError, ValueRefusedError
from tower.base.names import (
    ROUTER,
    parse_host_name,
    parse_lang,
    parse_size,
    parse_ssid,
    parse_ssid_hex,
    parse_user_name,
    seconds,
    ssid_octets,
    ssid_text,
)
from tower.base.networks import parse_address
from tower.base.refused import OURS, ours
from tower.base.view import View, read_secret
from tower.disk.receipt import Receipt, Stage, Target
from tower.disk.target import still, target_disk, target_file
from tower.hosts import known, secret
from tower.hosts.env import Encryption, Wlan
from tower.hosts.registry import RECEIPT_ON_BOOT, FreeAddress, Host, Tower, tower_of_user
from tower.hosts.settings import Settings, current_user, read_settings
from tower.image import source
from tower.image.source import ImageSource
from tower.provision import provision
from tower.provision.provision import Wish

EXAMPLES: Final = """\
examples:
  tower provision router --wlan-ssid Home          ask for the password, write the only card that is there
  tower provision web                              an online host; the router must exist
  tower provision vault --offline --device /dev/sdb
  tower provision web --dry-run                    show all that would be done, and do nothing
  tower provision --resume web                     continue after an interruption
  tower provision vm --offline --device-file vm.img --size 4G --target pc --no-wait --yes

At its first start the host encrypts its second disk, whose content is lost, and moves onto it.
Without a second disk it stops and says so, unless --unencrypted was given.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the host's name; `router` is the router")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--online", action="store_true", default=True, help="reaches the Internet through the router (default)")
    kind.add_argument("--offline", action="store_false", dest="online", help="reaches nothing")
    disk = parser.add_argument_group("its boot device")
    where = disk.add_mutually_exclusive_group()
    where.add_argument("--device", type=Path, metavar="DEVICE", help="the disk to write (default: the only removable disk)")
    where.add_argument("--device-file", type=Path, metavar="FILE", help="write a file instead: the disk of a virtual machine")
    disk.add_argument("--size", type=_size, metavar="SIZE", help="of the file, such as 4G (default: that of the image)")
    disk.add_argument("--image", type=Path, metavar="FILE", help="the image to use (default: the newest in the folder of builds)")
    disk.add_argument(
        "--target", choices=source.TARGETS, default=source.TARGETS[0], help="kind of machine (default: %(default)s)"
    )
    disk.add_argument("--unsigned", action="store_true", help="use an image that its makers did not sign (development)")
    own = parser.add_argument_group("its settings (default: those of this machine)")
    own.add_argument("--username", help="who may log in")
    own.add_argument("--keyboard-layout", metavar="LAYOUT", help="such as us, fr, de")
    own.add_argument("--keyboard-variant", metavar="VARIANT", help="such as fr-bepo (default: that of the layout)")
    own.add_argument("--timezone", metavar="ZONE", help="such as Europe/Paris")
    own.add_argument("--lang", metavar="LOCALE", help="such as fr_FR.UTF-8")
    own.add_argument(
        "--password", action="store_true", help="ask for a password for the host's console (default: nobody can log in there)"
    )
    own.add_argument(
        "--unencrypted",
        action="store_true",
        help="run it from its boot device, without a second disk or encryption",
    )
    wlan = own.add_mutually_exclusive_group()
    wlan.add_argument(
        "--wlan-ssid", metavar="SSID", help="the router's Wi-Fi; tower asks for its password, or reads it from stdin"
    )
    wlan.add_argument("--wlan-ssid-hex", metavar="HEX", help="the same, with the bytes of its name in hexadecimal: 486f6d65")
    run = parser.add_argument_group("how it runs")
    run.add_argument("--dry-run", action="store_true", help="show what would be done, do nothing")
    run.add_argument("--yes", action="store_true", help="do not ask before the disk is overwritten")
    run.add_argument("--resume", action="store_true", help="continue where an earlier run was interrupted")
    run.add_argument("--no-wait", action="store_false", dest="wait", help="do not wait for the host's first answer")
    run.add_argument(
        "--timeout", type=seconds, default=900, metavar="SECONDS", help="to wait for the first answer (default: %(default)s)"
    )
    run.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Provision a host, or continue with one; return the exit status. Raises ValueRefusedError."""
    view, tower = View(json=args.json), tower_of_user()
    name = parse_host_name(args.name)
    if args.size and not args.device_file:
        raise ValueRefusedError("--size is for --device-file")
    if args.resume:
        tower.host(name)
        tower.refresh()
        _tell(tower, view, made=True)
        return _finish(args, tower, tower.host(name), view, resume=True)
    wish, origin, target = _decide(args, tower, view)
    place = tower.place(name, online=wish.online)
    checked = source.check_source(origin, unsigned=args.unsigned)
    told = _tell(tower, view)
    if args.dry_run:
        view.show(_plan(wish, origin, target, place, checked))
        return 0
    if args.wait:
        provision.check_network(parse_address(place.address), online=wish.online)
    view.say(f"image: {origin}, {checked}")
    if wish.encryption is Encryption.REQUIRED:
        view.say(f"{name} encrypts its second disk at its first start: the content of that disk is then lost")
    view.confirm(f"{target} will be overwritten. Go on?", yes=args.yes)
    host = provision.prepare(tower, wish, origin, target)
    if not told:
        _tell(tower, view, made=True)
    return _finish(args, tower, host, view, resume=False)


def _tell(tower: Tower, view: View, *, made: bool = False) -> bool:
    """Tell the user if `ssh` will not know the host; return whether it did. Nothing else needs the user's configuration."""
    text = tower.notice(made=made)
    if text:
        view.say(text)
    return bool(text)


def _decide(args: argparse.Namespace, tower: Tower, view: View) -> tuple[Wish, ImageSource, Target]:
    """Make all checks that can fail before any password is asked for."""
    name = parse_host_name(args.name)
    router = name == ROUTER
    if router and not args.online:
        raise ValueRefusedError("the router is online")
    tower.check_new(name, online=args.online, hosts=tower.hosts())
    if router != (args.wlan_ssid is not None or args.wlan_ssid_hex is not None):
        raise ValueRefusedError("only the router has a Wi-Fi network", hint="tower provision router --wlan-ssid NAME")
    username = current_user() if args.username is None else parse_user_name(args.username)
    settings = _settings(args)
    ssid = _ssid(args) if router else ""
    origin = source.read_source(args.image or source.find_image(source.builds_folder(), args.target))
    target = _target(args, origin, view)
    wlan = Wlan(ssid, secret.wlan_key(ssid, _ask("password of the Wi-Fi", args))) if router else None
    password = _ask("password for the console", args) if args.password else None
    encryption = Encryption.NONE if args.unencrypted else Encryption.REQUIRED
    return Wish(name, args.online, username, settings, wlan, password, encryption), origin, target


def _ssid(args: argparse.Namespace) -> str:
    return parse_ssid(args.wlan_ssid) if args.wlan_ssid_hex is None else parse_ssid_hex(args.wlan_ssid_hex)


def _target(args: argparse.Namespace, origin: ImageSource, view: View) -> Target:
    return target_file(origin, args.device_file, args.size) if args.device_file else target_disk(origin, args.device, view)


def _ask(question: str, args: argparse.Namespace) -> str:
    # Ask for nothing if the plan is only shown.
    return "only shown" if args.dry_run else read_secret(question, env_hint="give it as a line on stdin")


def _settings(args: argparse.Namespace) -> Settings:
    found = read_settings()
    layout, variant = args.keyboard_layout, args.keyboard_variant
    if layout is not None or variant is not None:
        # A variant has the name of its layout in front: fr-bepo.
        own = variant.partition("-")[0] if variant and "-" in variant else found.keyboard_layout
        layout, variant = known.keyboard(own if layout is None else layout, variant or "")
        found = replace(found, keyboard_layout=layout, keyboard_variant=variant)
    if args.timezone is not None:
        found = replace(found, timezone=known.time_zone(args.timezone))
    return replace(found, lang=parse_lang(args.lang)) if args.lang is not None else found


def _finish(args: argparse.Namespace, tower: Tower, host: Host, view: View, *, resume: bool) -> int:
    """Do what is left to do, from the stage in the receipt; return the exit status."""
    from tower.provision import answer

    found = provision.read_receipt(host)
    steps: Mapping[str, float] = {}
    try:
        with provision.busy(host):
            found = provision.read_receipt(host)
            if found.stage is Stage.PREPARED:
                origin = provision.source_of(found)
                if resume:
                    found = provision.keep_receipt(host, replace(found, target=_target_again(args, found, origin, view)))
                found = provision.write_disk(host, found, origin, resume=resume, view=view)
            if found.stage is Stage.WRITTEN and args.wait:
                view.say(f"put {found.target} into {host.name}, and switch it on")
                got = answer.wait_for(host, tower, limit=args.timeout, view=view)
                answer.check_receipt(got, found.id, host.name)
                found, steps = provision.keep_receipt(host, found.at(Stage.ANSWERED, system=got.system)), got.steps
    except (KeyboardInterrupt, StoppedError) as stop:
        number = stop.exit_status - 128 if isinstance(stop, StoppedError) else 2
        raise StoppedError(number, hint=f"continue with: tower provision --resume {host.name}") from None
    except (TowerError, *OURS) as caught:
        error = ours(caught)
        if found.stage is Stage.PREPARED:
            error.hint = "; ".join([*filter(None, [error.hint]), f"then continue with: tower provision --resume {host.name}"])
        raise error from None
    view.show({**_result(tower, host, found), **({"steps": dict(steps)} if view.json else {})})
    return 0


def _target_again(args: argparse.Namespace, found: Receipt, origin: ImageSource, view: View) -> Target:
    """Return the same disk as before, unless another one is named; check the image again."""
    checked = source.check_source(origin, unsigned=args.unsigned)
    view.say(f"image: {origin}, {checked}")
    if args.device is None and args.device_file is None:
        return still(found.target, view, yes=args.yes)
    target = _target(args, origin, view)
    view.confirm(f"{target} will be overwritten. Go on?", yes=args.yes)
    return target


def _plan(wish: Wish, origin: ImageSource, target: Target, place: FreeAddress, checked: str) -> dict[str, object]:
    return {
        "host": wish.name,
        "kind": "router" if wish.name == ROUTER else "online" if wish.online else "offline",
        "address": place.address,
        "color": place.color,
        "username": wish.username,
        "keyboard": f"{wish.settings.keyboard_layout} {wish.settings.keyboard_variant}",
        "timezone": wish.settings.timezone,
        "lang": wish.settings.lang,
        "wlan": ssid_text(wish.wlan.ssid) if wish.wlan else "",
        "wlan_hex": ssid_octets(wish.wlan.ssid).hex() if wish.wlan else "",
        "encryption": wish.encryption.value,
        "image": str(origin.path),
        "version": origin.version,
        "channel": origin.channel,
        "signature": checked,
        "overwrites": str(target),
        "bytes_written": origin.block_map.mapped,
        "boot_files": ", ".join((*provision.BOOT_FILES, RECEIPT_ON_BOOT)),
    }


def _result(tower: Tower, host: Host, found: Receipt) -> dict[str, object]:
    return {
        "host": host.name,
        "address": str(host.env.address),
        "state": found.stage.value,
        "image_sha256": found.image_sha256,
        "receipt": found.id,
        "device": str(found.target),
        "system": found.system,
        "next": tower.ssh_to(host.name) if found.stage is Stage.ANSWERED else f"tower provision --resume {host.name}",
    }


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueRefusedError:
        size = 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: 512M, 4G")
    return size
