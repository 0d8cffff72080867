# SPDX-License-Identifier: Apache-2.0
"""Upgrade a host: write its boot device again, and keep its name, address and keys.

    prepared -> written -> answered -> packages installed again

An upgrade that has begun is kept in the folder `upgrade` of the host's own, like another provisioning: settings of type
`upgrade`, and a receipt with an ID of its own. They replace those of the host when its boot device is written, and the
folder is removed at the end: until then, `tower upgrade --resume NAME` continues, whatever interrupted it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tower.base.errors import AnswerError, DeviceError, HostError, ImageProblemError, LostError
from tower.base.files import is_file, is_folder, make_folder, read_file, remove_folder, write_file, write_folder
from tower.base.jsontext import parse_json
from tower.base.refused import home_folder, in_our_words
from tower.base.view import View
from tower.disk import device, receipt
from tower.disk.make import HostDisk, make_disk, read_boot_file
from tower.disk.medium import ALIGN
from tower.disk.receipt import Receipt, Stage, Target
from tower.disk.target import FILE, open_target
from tower.hosts import env
from tower.hosts.env import InstallationType
from tower.hosts.registry import ENV, RECEIPT, RECEIPT_ON_BOOT, UPGRADE, WORLD, Host, Tower
from tower.image import source
from tower.image.source import ImageSource
from tower.install import install
from tower.install.connection import connect
from tower.provision import answer, provision
from tower.provision.progress import FirstStartWatch
from tower.provision.provision import BOOT_FILES
from tower.ssh.sessions import SYSTEM_PATH, Session
from tower.upgrade import inplace

IN_PLACE: Final = "boot device of the host"
"""The kind of a target that the host itself writes."""
_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade that has begun."""

    host: Host
    receipt: Receipt

    @property
    def folder(self) -> Path:
        """Its folder, until its files replace those of the host."""
        return self.host.file(UPGRADE)

    @property
    def in_place(self) -> bool:
        """Whether the host writes its boot device itself."""
        return self.receipt.target.kind == IN_PLACE

    def keep(self, found: Receipt) -> Upgrade:
        """Note how far it has come."""
        receipt.write(self.folder / RECEIPT, found)
        return replace(self, receipt=found)


def target_of(found: Receipt) -> str:
    """Return the kind of machine that a host's image was for. Raises ImageProblemError if its name does not tell."""
    name = Path(found.image).name
    for target in source.TARGETS:
        if source.is_for(name, target):
            return target
    raise ImageProblemError(f"{found.host}: {name} does not tell the kind of machine it is for", hint="say so: --target rpi")


def check_version(installed: str, new: ImageSource, what: str, *, older: bool) -> None:
    """Raise ImageProblemError if an image is older than the installed one, unless `older` allows it."""
    if not older and source.version_key(new.version) < source.version_key(installed):
        raise ImageProblemError(
            f"{new.path}: is version {new.version}, but {what} has the newer {installed}",
            hint="older versions have known faults; to install it anyway: --older",
        )


def check_ready(host: Host, *, lose_files: bool) -> Receipt:
    """Return the receipt of a host that may be upgraded. Raises HostError saying what has to be done first."""
    found = provision.read_receipt(host)
    if is_folder(host.file(UPGRADE)):
        raise HostError(f"{host.name}: an upgrade has already begun", hint=f"continue it: tower upgrade --resume {host.name}")
    if found.stage is not Stage.ANSWERED:
        raise HostError(f"{host.name}: has never answered", hint=f"first: tower provision --resume {host.name}")
    if host.env.encryption is env.Encryption.NONE and not lose_files:
        raise HostError(
            f"{host.name}: was made to run without a second disk: its files may be on its boot device, and would be lost",
            hint="save them, then add --lose-files",
        )
    return found


def begin(host: Host, before: Receipt, new: ImageSource, target: Target) -> Upgrade:
    """Make the files of an upgrade, all of them or none. Raises HostError."""
    found = Receipt.new(host.name, new, target)
    if before.host != host.name:
        raise HostError(f"{host.file(RECEIPT)}: is of host {before.host}")
    settings = replace(host.env, installation_type=InstallationType.UPGRADE, alpine_branch=new.branch)
    rows = {ENV: env.dump(settings), RECEIPT: found.dump(), RECEIPT_ON_BOOT: found.public}
    write_folder(host.file(UPGRADE), rows)
    return Upgrade(host, found)


def begun(host: Host) -> Upgrade:
    """Return the upgrade that has begun. Raises HostError if there is none."""
    if not is_folder(host.file(UPGRADE)):
        raise HostError(f"{host.name}: no upgrade has begun", hint=f"begin one: tower upgrade {host.name}")
    found = receipt.read(host.file(UPGRADE) / RECEIPT)
    if found.host != host.name:
        raise HostError(f"{host.file(UPGRADE)}: is of host {found.host}", hint=f"remove it: rm -r {host.file(UPGRADE)}")
    return Upgrade(host, found)


def boot_files(one: Upgrade) -> dict[str, Path]:
    """Return the files for the boot partition: the host's own keys, and the settings and receipt of the upgrade."""
    ours = (ENV, RECEIPT_ON_BOOT)
    return {name: (one.folder / name if name in ours else one.host.file(name)) for name in (*BOOT_FILES, RECEIPT_ON_BOOT)}


def job_of(one: Upgrade, new: ImageSource) -> HostDisk:
    """Return the description of the new boot device."""
    folder = home_folder() / ".cache" / "tower"
    make_folder(folder)
    return HostDisk(new, boot_files(one), folder)


def adopt(one: Upgrade) -> None:
    """Make the upgrade's settings and receipt those of the host, after its boot device is written. It can be repeated."""
    for name in (ENV, RECEIPT_ON_BOOT):
        write_file(one.host.file(name), read_file(one.folder / name))
    provision.keep_receipt(one.host, one.receipt)


def forget(one: Upgrade) -> None:
    """Remove the upgrade's files: everything is done, or nothing was."""
    gone = one.host.file(f".{UPGRADE}.gone")
    remove_folder(gone)
    with in_our_words(one.folder):
        one.folder.rename(gone)
    remove_folder(gone)


# --- a boot device in this machine --------------------------------------------------------------------------------


def check_is_of(host: Host, before: Receipt, new: ImageSource, target: Target) -> None:
    """Raise DeviceError unless a disk is the boot device of this host: by its receipt, or because it was written.

    A disk that was written for this host may belong to another one by now: then it has that one's receipt.
    """
    was = before.target
    if target.kind == FILE and not is_file(Path(target.path), DeviceError):
        return
    found = _receipt_on(target, new).get("host", "")
    if found == host.name:
        return
    if target.kind == FILE:
        same = Path(target.path) == Path(was.path)
    else:
        same = bool(target.serial) and (target.serial, target.model, target.size) == (was.serial, was.model, was.size)
    if same and not found:
        return
    has = f"is that of host {found}" if found else "holds no host's receipt"
    raise DeviceError(
        f"{target.path}: is not the boot device of {host.name}: it {has}",
        hint=f"insert that of {host.name}; or, to make this one its boot device: --other-device",
    )


def _receipt_on(target: Target, new: ImageSource) -> dict[str, str]:
    folder = home_folder() / ".cache" / "tower"
    make_folder(folder)
    with open_target(target, new.path, write=False) as medium:
        try:
            return _receipt_rows(read_boot_file(medium, RECEIPT_ON_BOOT, folder))
        except ImageProblemError:  # its partitions are not those of a host
            return {}


def _receipt_rows(data: bytes) -> dict[str, str]:
    """Return the fields of a receipt on a boot partition; empty if it is not valid, since others may have written it."""
    try:
        rows = parse_json(data)
        return {name: str(rows[name]) for name in ("id", "host") if str(rows[name]).isprintable()}
    except (ValueError, KeyError, TypeError):
        return {}


def write_here(one: Upgrade, new: ImageSource, *, resume: bool, view: View) -> Upgrade:
    """Write the boot device, which is in this machine. After a TowerError or a signal, repeat it with `resume`."""
    with open_target(one.receipt.target, new.path) as medium:
        make_disk(job_of(one, new), medium, resume=resume, view=view)
    return one.keep(one.receipt.at(Stage.WRITTEN))


# --- in place -----------------------------------------------------------------------------------------------------


def look(session: Session, before: Receipt, new: ImageSource, *, named: str | None) -> inplace.Found:
    """Return the host's boot device: large enough, and the one that tower wrote unless it is named. Raises DeviceError."""
    host = session.host
    found = inplace.look(session, named)
    if found.size - found.size % ALIGN < new.block_map.size:
        raise DeviceError(
            f"{host.name}: {found.device} has {device.human_size(found.size)}, the image needs"
            f" {device.human_size(new.block_map.size)}",
            hint=f"write a larger one here: tower upgrade {host.name} --device DEVICE --other-device",
        )
    rows = _receipt_rows(found.receipt)
    if named is None and (rows.get("host"), rows.get("id")) != (before.host, before.id):
        has = f"a provisioning of {rows['host']}" if rows.get("host") else "no receipt"
        raise DeviceError(
            f"{host.name}: {found.device} shows {has}, expected {before.id[:12]} of {before.host}",
            hint="if it is the boot device nevertheless, name it: --boot-device DEVICE",
        )
    return found


def write_in_place(one: Upgrade, new: ImageSource, tower: Tower, view: View, *, named: str | None = None) -> Upgrade:
    """Have the host write its boot device, or continue that; `named` is a device other than before.

    After a TowerError or a signal, repeat it.
    """
    with connect(tower, one.host) as session:
        if inplace.state_of(session) not in ("done", "checking", "writing"):
            there = inplace.look(session, named or one.receipt.target.path)
            if named is None:
                _check_still(one, there)
            one = one.keep(replace(one.receipt, target=target_in_place(there)))
            job = job_of(one, new)
            with inplace.made(job, there, job.scratch, view) as (path, rows):
                digest = inplace.send(session, there, path, rows, view)
            inplace.start(session, there, digest)
    inplace.watch(tower, one.host, view)
    return one.keep(one.receipt.at(Stage.WRITTEN))


def target_in_place(found: inplace.Found) -> Target:
    """Return the boot device of a host as a target."""
    return Target(found.device, found.size, "", "", IN_PLACE, found.identity)


def _check_still(one: Upgrade, there: inplace.Found) -> None:
    """Raise DeviceError unless it is the chosen device, or shows that it is the host's boot device.

    Names of devices change when a host restarts, and disks are swapped.
    """
    if there.identity == one.receipt.target.identity:
        return
    rows, own = _receipt_rows(there.receipt), {provision.read_receipt(one.host).id, one.receipt.id}
    if rows.get("host") != one.host.name or rows.get("id") not in own:
        raise DeviceError(
            f"{one.host.name}: {there.device} is not the device that was there before, and has not the receipt of this host",
            hint="if it is the boot device nevertheless, name it: --boot-device DEVICE",
        )


def restart(one: Upgrade, tower: Tower, view: View) -> None:
    """Remove the pieces, and restart the host, unless it has restarted already."""
    state, got = answer.ask(FirstStartWatch(one.host, View()), tower)
    if got is None or got.receipt_id == one.receipt.id:
        view.say(f"{one.host.name}: {state or 'has the new version already'}")
        return
    with connect(tower, one.host) as session:
        inplace.clean(session)
        view.say(f"{one.host.name}: restarting")
        with suppress(LostError):  # this ends the connection
            session.root(["reboot"], env=SYSTEM_PATH, timeout=30)


def wait_for(one: Upgrade, tower: Tower, *, limit: float, view: View, sleep: Callable[[float], None] = time.sleep) -> str:
    """Return the system's name, once the host answers with the receipt of its upgrade. Raises AnswerError after `limit`."""
    host, end, told = one.host, time.monotonic() + limit, ""
    watch = FirstStartWatch(host, view)
    while True:
        state, got = answer.ask(watch, tower)
        if got is not None:
            if got.receipt_id == one.receipt.id:
                view.say(f"{host.name}: {got.system}")
                return got.system
            state = "answers, but without the receipt of the upgrade"
        if state != told:
            view.say(f"{host.name}: {state}")
            told = state
        if time.monotonic() >= end:
            raise AnswerError(f"{host.name}: no answer of the new version within {limit:.0f} s: {state}")
        sleep(_PAUSE)


def packages_again(host: Host, tower: Tower, view: View) -> None:
    """Install again the packages that the host had before. Raises a TowerError; it can be repeated."""
    if is_file(host.file(WORLD)) and read_file(host.file(WORLD)).strip():
        install.reinstall(tower, host.name, view)
