# SPDX-License-Identifier: Apache-2.0
"""`tower upgrade NAME`: a new version for a host, or a medium with a new version for the thin client."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Final

from tower.base.errors import StoppedError, TowerError, ValueRefusedError
from tower.base.names import THIN_CLIENT, parse_host_name, seconds
from tower.base.refused import OURS, ours
from tower.base.view import View
from tower.disk.receipt import Receipt, Stage, Target
from tower.disk.target import still, target_disk, target_file
from tower.hosts.registry import Host, Tower, tower_of_user
from tower.image import source
from tower.image.source import ImageSource
from tower.install.connection import connect
from tower.install.menu_refresh import refresh_after
from tower.provision import provision
from tower.upgrade import inplace, thinclient, upgrade
from tower.upgrade.upgrade import IN_PLACE, Upgrade

EXAMPLES: Final = """\
examples:
  tower upgrade web                        over the network: web writes its own boot device, and restarts
  tower upgrade web --device /dev/sdb      its SD card or USB stick is in this machine
  tower upgrade web --dry-run              show all that would be done, and do nothing
  tower upgrade --resume web               continue after an interruption
  tower upgrade thinclient                 write the newest medium of the thin client to a USB stick
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a host, or `thinclient`")
    disk = parser.add_argument_group("its boot device (default: the host writes it)")
    where = disk.add_mutually_exclusive_group()
    where.add_argument("--device", type=Path, metavar="DEVICE", help="the boot device is in this machine")
    where.add_argument(
        "--device-file", type=Path, metavar="FILE", help="the boot device is a file: the disk of a virtual machine"
    )
    where.add_argument(
        "--boot-device", metavar="DEVICE", help="its name on the host (default: the one with the boot partition that tower wrote)"
    )
    disk.add_argument("--other-device", action="store_true", help="accept a disk that was not this host's boot device before")
    disk.add_argument(
        "--lose-files",
        action="store_true",
        help="for a host without a second disk, whose files are on the boot device: lose them",
    )
    what = parser.add_argument_group("the new version")
    what.add_argument("--image", type=Path, metavar="FILE", help="the image; default: the newest in the folder of builds")
    what.add_argument("--target", choices=source.TARGETS, help="kind of machine (default: as when it was made)")
    what.add_argument("--older", action="store_true", help="accept a version older than the host's")
    what.add_argument("--again", action="store_true", help="accept the image that the host already has")
    what.add_argument("--unsigned", action="store_true", help="accept an image that its makers did not sign (development)")
    run = parser.add_argument_group("how it runs")
    run.add_argument("--dry-run", action="store_true", help="show what would be done, do nothing")
    run.add_argument("--yes", action="store_true", help="do not ask")
    run.add_argument("--resume", action="store_true", help="continue where an earlier upgrade was interrupted")
    run.add_argument(
        "--no-restart", action="store_false", dest="restart", help="do not restart the host; its next start completes the upgrade"
    )
    run.add_argument("--no-wait", action="store_false", dest="wait", help="do not wait for the host's answer")
    run.add_argument(
        "--no-packages", action="store_false", dest="packages", help="do not install again what was installed on the host"
    )
    run.add_argument("--timeout", type=seconds, default=1800, metavar="SECONDS", help="for the answer (default: %(default)s)")
    run.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Upgrade a host, continue an upgrade, or write a medium for the thin client; return the exit status."""
    view = View(json=args.json)
    if args.name == THIN_CLIENT:
        return _thin_client(args, view)
    tower = tower_of_user()
    host = tower.host(parse_host_name(args.name))
    if args.resume:
        return _finish(args, tower, upgrade.begun(host), view, resume=True)
    before = upgrade.check_ready(host, lose_files=args.lose_files)
    new = source.read_source(args.image or source.find_image(source.builds_folder(), args.target or upgrade.target_of(before)))
    if args.target is None and not args.image:
        view.say(f"image: the newest for {upgrade.target_of(before)}")
    upgrade.check_version(before.version, new, host.name, older=args.older)
    if new.sha256 == before.image_sha256 and not args.again:
        view.show(_result(host, before, note="it has this very image; --again writes it all the same"))
        return 0
    checked = source.check_source(new, unsigned=args.unsigned)
    target = _target(args, tower, before, new, view)
    if args.dry_run:
        view.show(_plan(host, before, new, target, checked))
        return 0
    view.say(f"image: {new}, {checked}")
    view.confirm(f"{host.name}: {before.version} becomes {new.version}; {target} will be overwritten. Go on?", yes=args.yes)
    if target.kind == IN_PLACE:
        with connect(tower, host) as session:
            inplace.clean(session)
    with provision.busy(host):
        upgrade.check_ready(host, lose_files=args.lose_files)
        one = upgrade.begin(host, before, new, target)
    return _finish(args, tower, one, view, resume=False)


def _target(args: argparse.Namespace, tower: Tower, before: Receipt, new: ImageSource, view: View) -> Target:
    """Return the device to be written, which must be this host's. Raises DeviceError or AnswerError."""
    host = tower.host(parse_host_name(before.host))
    if args.device or args.device_file:
        target = _disk(args, new, view)
        if not args.other_device:
            upgrade.check_is_of(host, before, new, target)
        return target
    with connect(tower, host) as session:
        found = upgrade.look(session, before, new, named=args.boot_device)
    return upgrade.target_in_place(found)


def _disk(args: argparse.Namespace, new: ImageSource, view: View) -> Target:
    return target_file(new, args.device_file, None) if args.device_file else target_disk(new, args.device, view)


def _finish(args: argparse.Namespace, tower: Tower, one: Upgrade, view: View, *, resume: bool) -> int:
    """Carry out the remaining stages of an upgrade, from the one in its receipt on."""
    again = f"tower upgrade --resume {one.host.name}"
    try:
        with provision.busy(one.host):
            one = upgrade.begun(one.host)
            if one.receipt.stage is Stage.PREPARED:
                one = _write(args, tower, one, view, resume=resume)
            if one.receipt.stage is Stage.WRITTEN:
                upgrade.adopt(one)
                one = _start(args, tower, one, view)
            if one.receipt.stage is Stage.ANSWERED:
                upgrade.adopt(one)
                if args.packages:
                    upgrade.packages_again(one.host, tower, view)
                refresh_after(tower, [one.host.name], view)
                upgrade.forget(one)
    except (KeyboardInterrupt, StoppedError) as stop:
        number = stop.exit_status - 128 if isinstance(stop, StoppedError) else 2
        raise StoppedError(number, hint=f"go on with: {again}") from None
    except (TowerError, *OURS) as caught:
        error = ours(caught)
        error.hint = "; ".join([*filter(None, [error.hint]), f"then go on with: {again}"])
        raise error from None
    view.show(_result(one.host, one.receipt))
    return 0


def _write(args: argparse.Namespace, tower: Tower, one: Upgrade, view: View, *, resume: bool) -> Upgrade:
    new = provision.source_of(one.receipt)
    if resume:
        view.say(f"image: {new}, {source.check_source(new, unsigned=args.unsigned)}")
        if args.device or args.device_file:
            # If the host can no longer be reached, its boot device is written in this machine.
            target = _disk(args, new, view)
            if not args.other_device and replace(target, identity="") != replace(one.receipt.target, identity=""):
                upgrade.check_is_of(one.host, provision.read_receipt(one.host), new, target)
            view.confirm(f"{target} will be overwritten. Go on?", yes=args.yes)
            one = one.keep(replace(one.receipt, target=target))
        elif not one.in_place:
            one = one.keep(replace(one.receipt, target=still(one.receipt.target, view, yes=args.yes)))
    if one.in_place:
        return upgrade.write_in_place(one, new, tower, view, named=args.boot_device if resume else None)
    return upgrade.write_here(one, new, resume=resume, view=view)


def _start(args: argparse.Namespace, tower: Tower, one: Upgrade, view: View) -> Upgrade:
    """Let the host start from the new image, and wait for its answer."""
    if one.in_place and args.restart:
        upgrade.restart(one, tower, view)
    elif not one.in_place:
        view.say(f"put {one.receipt.target} into {one.host.name}, and switch it on")
    if not args.wait or (one.in_place and not args.restart):
        return one
    system = upgrade.wait_for(one, tower, limit=args.timeout, view=view)
    return one.keep(one.receipt.at(Stage.ANSWERED, system=system))


def _thin_client(args: argparse.Namespace, view: View) -> int:
    if args.boot_device or args.resume or args.lose_files:
        raise ValueRefusedError("--boot-device, --resume and --lose-files are for hosts", hint="tower upgrade thinclient --help")
    new = source.read_source(args.image or source.find_medium(source.builds_folder()))
    upgrade.check_version(thinclient.installed_version(), new, "this thin client", older=args.older)
    checked = source.check_source(new, unsigned=args.unsigned)
    target = _disk(args, new, view)
    rows = {
        "medium": str(new.path),
        "version": f"{thinclient.installed_version() or 'unknown'} becomes {new.version}",
        "signature": checked,
        "overwrites": str(target),
        "next": thinclient.next_steps(target),
    }
    if not args.dry_run:
        view.say(f"medium: {new}, {checked}")
        view.confirm(f"{target} will be overwritten. Go on?", yes=args.yes)
        thinclient.write(new, target, view)
    view.show(rows)
    return 0


def _plan(host: Host, before: Receipt, new: ImageSource, target: Target, checked: str) -> dict[str, object]:
    return {
        "host": host.name,
        "version": f"{before.version} becomes {new.version}",
        "channel": f"{before.channel} becomes {new.channel}",
        "image": str(new.path),
        "signature": checked,
        "written_by": "the host itself" if target.kind == IN_PLACE else "this machine",
        "overwrites": str(target),
        "bytes_written": new.block_map.mapped,
        "kept": "name, address, colour, keys of host and user, key of its disk",
    }


def _result(host: Host, found: Receipt, *, note: str = "") -> dict[str, object]:
    answered = found.stage is Stage.ANSWERED
    return {
        "host": host.name,
        "version": found.version,
        "state": found.stage.value,
        "image_sha256": found.image_sha256,
        "receipt": found.id,
        "device": str(found.target),
        "system": found.system,
        "next": note or (f"ssh {host.name}" if answered else f"tower upgrade --resume {host.name}"),
    }
