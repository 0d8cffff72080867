# SPDX-License-Identifier: Apache-2.0
"""A new version for a host: its boot device written again, its name, address and keys kept.

    prepared -> written -> answered -> packages installed again

What is begun is kept in the folder `upgrade` of the host's own, as if it were another provisioning: settings of the type
`upgrade`, and a receipt with a number of its own. They take the place of the host's when its boot device is written, and
the folder is removed when all is done: until then, `tower upgrade --resume NAME` goes on, whatever ended it.
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
from tower.provision.provision import BOOT_FILES
from tower.ssh.sessions import SYSTEM_PATH, Session
from tower.upgrade import inplace

IN_PLACE: Final = "boot device of the host"
"""The kind of a target that the host itself writes."""
_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One that was begun."""

    host: Host
    receipt: Receipt

    @property
    def folder(self) -> Path:
        """Its files, until they take the place of the host's."""
        return self.host.file(UPGRADE)

    @property
    def in_place(self) -> bool:
        """Whether the host writes its boot device itself."""
        return self.receipt.target.kind == IN_PLACE

    def keep(self, found: Receipt) -> Upgrade:
        """Remember how far it came."""
        receipt.write(self.folder / RECEIPT, found)
        return replace(self, receipt=found)


def target_of(found: Receipt) -> str:
    """The kind of machine that a host's image was for. Raises ImageProblemError if its name does not say."""
    name = Path(found.image).name
    for target in source.TARGETS:
        if source.is_for(name, target):
            return target
    raise ImageProblemError(f"{found.host}: {name} does not say for which kind of machine it is", hint="say so: --target rpi")


def check_version(installed: str, new: ImageSource, what: str, *, older: bool) -> None:
    """ImageProblemError if an image is older than what is installed, and that was not asked for."""
    if not older and source.version_key(new.version) < source.version_key(installed):
        raise ImageProblemError(
            f"{new.path}: is of version {new.version}, {what} has the newer {installed}",
            hint="older versions have known faults; if it must be: --older",
        )


def check_ready(host: Host, *, lose_files: bool) -> Receipt:
    """The receipt of a host that may be upgraded. Raises HostError saying what comes first."""
    found = provision.read_receipt(host)
    if is_folder(host.file(UPGRADE)):
        raise HostError(f"{host.name}: an upgrade is begun already", hint=f"go on with it: tower upgrade --resume {host.name}")
    if found.stage is not Stage.ANSWERED:
        raise HostError(f"{host.name}: never answered yet", hint=f"first: tower provision --resume {host.name}")
    if host.env.encryption is env.Encryption.NONE and not lose_files:
        raise HostError(
            f"{host.name}: was made to run without a second disk: its files may lie on its boot device, and are lost",
            hint="save them, then add --lose-files",
        )
    return found


def begin(host: Host, before: Receipt, new: ImageSource, target: Target) -> Upgrade:
    """Make the files of an upgrade, all at once."""
    found = Receipt.new(host.name, new, target)
    if before.host != host.name:
        raise HostError(f"{host.file(RECEIPT)}: is of host {before.host}")
    settings = replace(host.env, installation_type=InstallationType.UPGRADE, alpine_branch=new.branch)
    rows = {ENV: env.dump(settings), RECEIPT: found.dump(), RECEIPT_ON_BOOT: found.public}
    write_folder(host.file(UPGRADE), rows)
    return Upgrade(host, found)


def begun(host: Host) -> Upgrade:
    """The upgrade that was begun. Raises HostError if there is none."""
    if not is_folder(host.file(UPGRADE)):
        raise HostError(f"{host.name}: no upgrade is begun", hint=f"begin one: tower upgrade {host.name}")
    found = receipt.read(host.file(UPGRADE) / RECEIPT)
    if found.host != host.name:
        raise HostError(f"{host.file(UPGRADE)}: is of host {found.host}", hint=f"remove it: rm -r {host.file(UPGRADE)}")
    return Upgrade(host, found)


def boot_files(one: Upgrade) -> dict[str, Path]:
    """What goes onto the boot partition: the host's own keys, and the settings and receipt of the upgrade."""
    ours = (ENV, RECEIPT_ON_BOOT)
    return {name: (one.folder / name if name in ours else one.host.file(name)) for name in (*BOOT_FILES, RECEIPT_ON_BOOT)}


def job_of(one: Upgrade, new: ImageSource) -> HostDisk:
    """What the boot device is made of."""
    folder = home_folder() / ".cache" / "tower"
    make_folder(folder)
    return HostDisk(new, boot_files(one), folder)


def adopt(one: Upgrade) -> None:
    """The boot device is written: the upgrade's settings and receipt are the host's from now on. Can be done again."""
    for name in (ENV, RECEIPT_ON_BOOT):
        write_file(one.host.file(name), read_file(one.folder / name))
    provision.keep_receipt(one.host, one.receipt)


def forget(one: Upgrade) -> None:
    """All is done, or nothing was."""
    gone = one.host.file(f".{UPGRADE}.gone")
    remove_folder(gone)
    with in_our_words(one.folder):
        one.folder.rename(gone)
    remove_folder(gone)


# --- a boot device in this machine --------------------------------------------------------------------------------


def check_is_of(host: Host, before: Receipt, new: ImageSource, target: Target) -> None:
    """DeviceError unless a disk is the boot device of this host: one with the host's receipt, or the one that was written.

    The one that was written may be another host's by now: then it has the receipt of that.
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
        except ImageProblemError:  # not partitioned as a host's
            return {}


def _receipt_rows(data: bytes) -> dict[str, str]:
    """A receipt as it is on a boot partition; empty if it is none. What others wrote is not believed to be one."""
    try:
        rows = parse_json(data)
        return {name: str(rows[name]) for name in ("id", "host") if str(rows[name]).isprintable()}
    except (ValueError, KeyError, TypeError):
        return {}


def write_here(one: Upgrade, new: ImageSource, *, resume: bool, view: View) -> Upgrade:
    """Write the boot device, which is in this machine. Raises a TowerError; then, or after a signal, with `resume`."""
    with open_target(one.receipt.target, new.path) as medium:
        make_disk(job_of(one, new), medium, resume=resume, view=view)
    return one.keep(one.receipt.at(Stage.WRITTEN))


# --- in place -----------------------------------------------------------------------------------------------------


def look(session: Session, before: Receipt, new: ImageSource, *, named: str | None) -> inplace.Found:
    """The host's boot device, which must be large enough, and the one that tower wrote unless it is named. DeviceError."""
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
            hint="if it is the boot device all the same, name it: --boot-device DEVICE",
        )
    return found


def write_in_place(one: Upgrade, new: ImageSource, tower: Tower, view: View, *, named: str | None = None) -> Upgrade:
    """Have the host write its boot device, or go on with that; `named` is another one than before.

    Raises a TowerError; then, or after a signal, again.
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
    """The boot device of a host, as the host sees it."""
    return Target(found.device, found.size, "", "", IN_PLACE, found.identity)


def _check_still(one: Upgrade, there: inplace.Found) -> None:
    """DeviceError unless it is the device that was chosen, or one that shows that it is the host's boot device.

    Names of devices change when a host is started anew, and disks are swapped.
    """
    if there.identity == one.receipt.target.identity:
        return
    rows, own = _receipt_rows(there.receipt), {provision.read_receipt(one.host).id, one.receipt.id}
    if rows.get("host") != one.host.name or rows.get("id") not in own:
        raise DeviceError(
            f"{one.host.name}: {there.device} is not the device that was there before, and has not the receipt of this host",
            hint="if it is the boot device all the same, name it: --boot-device DEVICE",
        )


def restart(one: Upgrade, tower: Tower, view: View) -> None:
    """Remove what was sent, and start the host anew; not one that did so already."""
    state, got = answer.ask(one.host, tower)
    if got is None or got.receipt_id == one.receipt.id:
        view.say(f"{one.host.name}: {state or 'has the new version already'}")
        return
    with connect(tower, one.host) as session:
        inplace.clean(session)
        view.say(f"{one.host.name}: starts anew")
        with suppress(LostError):  # the connection ends by it
            session.root(["reboot"], env=SYSTEM_PATH, timeout=30)


def wait_for(one: Upgrade, tower: Tower, *, limit: float, view: View, sleep: Callable[[float], None] = time.sleep) -> str:
    """The name of the system, once the host answers with the receipt of its upgrade. Raises AnswerError after `limit`."""
    host, end, told = one.host, time.monotonic() + limit, ""
    while True:
        state, got = answer.ask(host, tower)
        if got is not None:
            if got.receipt_id == one.receipt.id:
                view.say(f"{host.name}: {got.system}")
                return got.system
            state = "answers, and has not the receipt of the upgrade yet"
        if state != told:
            view.say(f"{host.name}: {state}")
            told = state
        if time.monotonic() >= end:
            raise AnswerError(f"{host.name}: no answer of the new version within {limit:.0f} s: {state}")
        sleep(_PAUSE)


def packages_again(host: Host, tower: Tower, view: View) -> None:
    """Install again what was installed on the host before. Raises a TowerError; can be done again."""
    if is_file(host.file(WORLD)) and read_file(host.file(WORLD)).strip():
        install.reinstall(tower, host.name, view)
