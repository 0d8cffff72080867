# SPDX-License-Identifier: Apache-2.0
"""Booting finished images in QEMU until they are up: a login prompt on the console, sshd answering on hosts.

A host answers once its first start has made it ready with what `tower provision` lays on its boot partition; so does
`boot_image`, for a Tower that is gone with the machine.

Images are never changed: the machines write to an overlay that is thrown away. A Raspberry Pi is started as
its firmware would: kernel, device tree, initramfs and command line come from the image's own boot partition.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from pipeline.base import proc
from pipeline.base.errors import BootError
from pipeline.base.scratch import temporary_folder
from pipeline.images.disk import boot_file, boot_files, put_boot_file, take_boot_file, unpacked
from pipeline.images.guest import ACCELERATION, Guest, free_port, quoted, running
from pipeline.images.new_host import ADDRESS, NETWORK, THIN_CLIENT, new_host

LOGIN: Final = r"login: ?$"
SSH: Final = 22
_OVMF: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
)
_DEVICE_TREES: Final = ("bcm2837-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb")
_PI_CONSOLE: Final = "console=ttyAMA0,115200"
# The small store of translated code was measured on PCs alone.
_PI_ACCELERATION: Final = "tcg,thread=multi"
_PI_NETWORK: Final = "cdc_ether"
_GIB: Final = 1 << 30


class MachineType(StrEnum):
    """The kinds of machine that an image can be booted on."""

    THINCLIENT_BIOS = "thinclient-bios"
    THINCLIENT_UEFI = "thinclient-uefi"
    HOST_PC_BIOS = "host-pc-bios"
    HOST_PC_UEFI = "host-pc-uefi"
    HOST_RPI = "host-rpi"

    @property
    def is_host(self) -> bool:
        """Whether sshd must answer."""
        return self.value.startswith("host-")

    @property
    def limit(self) -> float:
        """Seconds until the login prompt at the latest; several times what two idle processors need."""
        return 420 if self in (MachineType.HOST_PC_BIOS, MachineType.HOST_PC_UEFI) else 900


BOTH: Final = {"host-pc": (MachineType.HOST_PC_BIOS, MachineType.HOST_PC_UEFI)}
"""Names that stand for several machines, booted one after the other."""


@dataclass(frozen=True, slots=True)
class BootResult:
    """The result of a boot; seconds from the start of the machine."""

    machine: str
    login_seconds: float
    ssh_seconds: float | None
    log: Path

    def __str__(self) -> str:
        ssh = f", sshd after {self.ssh_seconds:.0f} s" if self.ssh_seconds is not None else ""
        return f"{self.machine}: login prompt after {self.login_seconds:.0f} s{ssh}"


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap interface, and the network namespace that it is in: the other end of a machine's cable."""

    pid: int
    """A process in that namespace."""
    name: str


class Says(Protocol):
    """A function that is called with each line about the progress of a boot."""

    def say(self, text: str) -> None:
        """Print a line about the progress."""


@contextmanager
def started(
    machine: MachineType,
    image: Path,
    *,
    log: Path,
    limit: float | None = None,
    stick: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    second: Path | None = None,
    broken: int = 0,
    tap: Tap | None = None,
    swapped: bool = False,
    clock: str = "",
    accel: str = "",
    qmp: Path | None = None,
) -> Iterator[Guest]:
    """Boot `image` on `machine`; it is ended with the context, and after `limit` seconds at the latest.

    `stick` is a file that a PC has as an additional USB stick; it is written to. `files` are put onto the boot partition of
    a host first, by name; the image is not changed. `second` is the file of a host's second disk, which a Raspberry Pi has by
    USB; then the size of its card must be a power of two. With a second disk, data written to both disks stays, and its sector
    at the byte `broken`, if not 0, cannot be written. With `tap`, a PC is a host of the network that this interface belongs to.
    Without it, hosts are in an offline network of QEMU's own, and its first host is forwarded. If it is `swapped`, the second
    disk has the first one's name. `clock` is what the machine's clock shows at the start, as 1970-01-01T00:00:00; now, if it is
    empty. `accel` is the value of QEMU's option of that name. If there is a `qmp`, QEMU speaks its machine protocol at this
    socket, and the boot device of a PC is a USB stick that can be pulled out (`device_del` of `boot`). Raises BootError.
    """
    if not image.is_file():
        raise BootError(f"{image}: no such image", hint="build it first: ./ci/doit")
    ports = {SSH: free_port()} if machine.is_host and tap is None else {}
    with temporary_folder("boot") as folder:
        disk = image.absolute() if files is None else _with_files(image.absolute(), files, folder)
        argv = _arguments(machine, disk, folder, ports, kept=second is not None, tap=tap, accel=accel)
        if second is not None and machine is MachineType.HOST_RPI:
            argv += ["-drive", f"if=none,id=second,cache=writeback,format=raw,{_second(second, broken)}"]
            argv += ["-device", "usb-storage,drive=second,serial=SECOND1"]
        elif second is not None:
            drive = ["-drive", f"if=virtio,cache=writeback,format=raw,{_second(second, broken)}"]
            place = argv.index("-drive") if swapped else len(argv)
            argv[place:place] = drive
        if qmp is not None:
            argv = [*_on_a_stick(argv), "-qmp", f"unix:{quoted(qmp)},server=on,wait=off"]
        if clock:
            argv += ["-rtc", f"base={clock}"]
        if stick is not None:
            argv += ["-drive", f"if=none,id=stick,format=raw,file={quoted(stick)}", "-device", "qemu-xhci"]
            argv += ["-device", "usb-storage,drive=stick,serial=STICK1"]
        with running(machine.value, argv, log=log, limit=limit or machine.limit * 2, ports=ports) as guest:
            yield guest


def _on_a_stick(argv: list[str]) -> list[str]:
    """Return QEMU's arguments for a PC whose first disk is a USB stick."""
    place = argv.index("-drive") + 1
    drive = argv[place].replace("if=virtio", "if=none,id=boot")
    stick = ["-device", "qemu-xhci", "-device", "usb-storage,id=boot,drive=boot,serial=BOOT1,removable=on,bootindex=0"]
    return [*argv[:place], drive, *argv[place + 1 :], *stick]


def _second(disk: Path, broken: int) -> str:
    """Return the part of a drive's options that names its file, of which one sector may be unwritable."""
    if not broken:
        return f"file={quoted(disk)}"
    fault = f"event=none,file.inject-error.0.iotype=write,file.inject-error.0.errno=5,file.inject-error.0.sector={broken >> 9}"
    return f"file.driver=blkdebug,file.image.driver=file,file.image.filename={quoted(disk)},file.inject-error.0.{fault}"


def boot_image(machine: str, image: Path, *, log: Path, progress: Says) -> BootResult:
    """Boot an image until its login prompt (and sshd's greeting) appears, then switch the machine off.

    `machine` is one of `MachineType`, or a name in `BOTH` (the last result is returned). Raises BootError with the
    last lines of the console and the path of its log.
    """
    names = BOTH.get(machine)
    if names is not None:
        results = [boot_image(name.value, image, log=log.with_suffix(f".{name.value}.log"), progress=progress) for name in names]
        return results[-1]
    try:
        kind = MachineType(machine)
    except ValueError:
        raise BootError(f"{machine}: no such machine", hint=f"one of: {', '.join([*MachineType, *BOTH])}") from None
    try:
        result = _boot(kind, image, log)
    except _NoNetworkError as error:
        # QEMU's USB now and then does not come up on this machine; the image is not to blame.
        progress.say(f"{machine}: its USB network did not come up; once more")
        try:
            result = _boot(kind, image, log)
        except _NoNetworkError:
            raise error.error from None
    progress.say(str(result))
    return result


class _NoNetworkError(Exception):
    """The emulated USB network was never found by the guest."""

    def __init__(self, error: BootError) -> None:
        super().__init__(error.message)
        self.error = error


def _boot(machine: MachineType, image: Path, log: Path) -> BootResult:
    with started(machine, image, log=log, files=new_host() if machine.is_host else None) as guest:
        guest.wait(LOGIN, machine.limit)
        login = guest.seconds
        ssh: float | None = None
        if machine.is_host:
            try:
                check_banner(guest, guest.banner(SSH, machine.limit / 2))
            except BootError as error:
                if machine is MachineType.HOST_RPI and _PI_NETWORK not in guest.text:
                    raise _NoNetworkError(error) from None
                raise
            ssh = guest.seconds
        return BootResult(machine.value, login, ssh, log)


def check_banner(guest: Guest, banner: str) -> None:
    """Raise BootError unless the banner is an SSH server's greeting."""
    if not banner.startswith("SSH-2.0-"):
        raise guest.error(f"port {SSH} says {banner!r}, which is no SSH server")


# --- QEMU's arguments -----------------------------------------------------------------------------------------


def _arguments(
    machine: MachineType,
    image: Path,
    scratch: Path,
    ports: dict[int, int],
    *,
    kept: bool = False,
    tap: Tap | None = None,
    accel: str = "",
) -> list[str]:
    accel = accel or (_PI_ACCELERATION if machine is MachineType.HOST_RPI else ACCELERATION[1])
    common = ["-accel", accel, "-display", "none", "-monitor", "none", "-serial", "chardev:console", "-no-reboot"]
    # Who connects to the forwarded port is the thin client, for the host's firewall.
    forward = f",net={NETWORK},host={THIN_CLIENT}"
    forward += "".join(f",hostfwd=tcp:127.0.0.1:{ours}-{ADDRESS}:{theirs}" for theirs, ours in ports.items())
    if machine is MachineType.HOST_RPI:
        return ["qemu-system-aarch64", *common, *_raspberry(image, scratch, forward, kept=kept)]
    # What kills Linux 6.12 at random in an emulated PC: cmpxchg16b, which it can do without, and a second processor, which
    # may run into code that the first is about to patch (`Oops: int3`).
    argv = ["qemu-system-x86_64", *common, "-machine", "pc", "-cpu", "qemu64,-cx16", "-m", "1536"]
    if machine in (MachineType.THINCLIENT_UEFI, MachineType.HOST_PC_UEFI):
        argv += uefi_arguments(scratch)
    if machine.is_host:
        disk, form = (image, "raw") if kept else (_overlay(image, scratch), "qcow2")
        argv += ["-drive", f"file={quoted(disk)},format={form},if=virtio"]
        if tap is not None:
            enter = ["nsenter", f"--target={tap.pid}", "--net", "--"]
            return [*enter, *argv, "-nic", f"tap,model=virtio-net-pci,ifname={tap.name},script=no,downscript=no"]
        return [*argv, "-nic", f"user,model=virtio-net-pci{forward}"]
    # The thin client has two networks and reaches nothing on them.
    two = ["-nic", "user,model=virtio-net-pci,restrict=on"] * 2
    return [*argv, "-drive", f"file={quoted(image)},format=raw,media=cdrom,readonly=on", *two]


def uefi_arguments(scratch: Path) -> list[str]:
    """Return QEMU's arguments for a PC with UEFI, with its variables in `scratch`. Raises BootError if there is no firmware."""
    for code, variables in _OVMF:
        if Path(code).is_file() and Path(variables).is_file():
            own = shutil.copyfile(variables, scratch / "uefi-variables.fd")
            return [
                *("-drive", f"if=pflash,format=raw,readonly=on,file={code}"),
                *("-drive", f"if=pflash,format=raw,file={quoted(own)}"),
            ]
    raise BootError("UEFI firmware for QEMU is not installed", hint="apt-get install ovmf")


def _with_files(image: Path, files: Mapping[str, bytes], scratch: Path) -> Path:
    """Return an unpacked copy of the image with files on its boot partition."""
    disk = unpacked(image, scratch)
    if disk == image:
        disk = scratch / f"own-{image.name}"
        proc.run(("cp", "--sparse=always", image, disk), timeout=120)
    for name, data in files.items():
        put_boot_file(disk, f"/{name}", data, scratch)
    return disk


def _overlay(image: Path, scratch: Path, size: int = 0) -> Path:
    """Make a disk that reads from the image and writes beside it; `size` in bytes, the image's own if 0."""
    overlay = scratch / "disk.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(unpacked(image, scratch)), str(overlay)]
    proc.run([*argv, *([str(size)] if size else [])], timeout=60, hint="apt-get install qemu-utils")
    return overlay


def _raspberry(image: Path, scratch: Path, forward: str, *, kept: bool) -> list[str]:
    """Do with the boot partition what the firmware of a Raspberry Pi 3 does; return arguments of QEMU."""
    raw = unpacked(image, scratch)
    config = boot_file(raw, "/config.txt").decode()
    kernel = re.search(r"^kernel=(\S+)$", config, re.MULTILINE)
    initramfs = re.search(r"^initramfs (\S+) followkernel$", config, re.MULTILINE)
    names = boot_files(raw)
    tree = next((name for name in _DEVICE_TREES if f"/{name}" in names), None)
    if kernel is None or initramfs is None or tree is None:
        raise BootError(
            f"{image.name}: its boot partition would not start a Raspberry Pi 3",
            hint=f"config.txt must name kernel and initramfs, and one of {', '.join(_DEVICE_TREES)} must be there",
        )
    line = boot_file(raw, "/cmdline.txt").decode().strip()
    if _PI_CONSOLE not in line:
        line = f"{line} {_PI_CONSOLE}"
    # The firmware lays them into memory one behind the other.
    with (scratch / "initramfs").open("wb") as out:
        for name in initramfs[1].split(","):
            out.write(boot_file(raw, f"/{name}"))
    # QEMU wants the size of an SD card to be a power of two.
    size = 1 << (max(raw.stat().st_size, _GIB) - 1).bit_length()
    card = f"file={quoted(raw)},format=raw" if kept else f"file={quoted(_overlay(raw, scratch, size))},format=qcow2"
    return [
        *("-machine", "raspi3b"),
        *("-kernel", str(take_boot_file(raw, f"/{kernel[1]}", scratch / "kernel"))),
        *("-initrd", str(scratch / "initramfs")),
        *("-dtb", str(take_boot_file(raw, f"/{tree}", scratch / "tree.dtb"))),
        *("-append", line),
        *("-drive", f"{card},if=sd"),
        *("-netdev", f"user,id=net0{forward}"),
        # Linux calls it eth0 only if its address is, as here, one that a maker was given.
        *("-device", "usb-net,netdev=net0,mac=b8:27:eb:00:00:01"),
    ]


# --- the task -------------------------------------------------------------------------------------------------


class _Terminal:
    def say(self, text: str) -> None:
        """Print a line on stderr."""
        sys.stderr.write(text + "\n")


def main_task(machine: str, image: Path) -> BootResult:
    """Boot a machine, and print the result (`doit boot:<machine>`)."""
    log = Path("build/log") / f"boot-{machine}.log"
    return boot_image(machine, image, log=log, progress=_Terminal())
