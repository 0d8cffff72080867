# SPDX-License-Identifier: Apache-2.0
"""The new system below `TARGET`: packages from the medium, its settings, its user, its boot loader.

All packages come from the medium's repository, and apk checks each against the keys that the live system trusts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import ImageProblemError, PackageError, StateError, ToolError
from tower.install.apkindex import INDEX, read_index
from tower.installer import signing
from tower.installer.answers import Answers
from tower.installer.disks import GROUP, LVM_CONFIG, MAPPING, TARGET, Made
from tower.installer.live_medium import unpack_wheels

KEY_FILE: Final = "crypto_keyfile.bin"
WORLD: Final = Path("/etc/tower/installed.world")
"""The packages of an installed system, one per line; the live system has fewer."""
REPOSITORIES: Final = Path("/etc/tower/repositories")
"""The servers of further packages for an installed system."""
TOOLS: Final = ("cryptsetup", "lvm2", "sfdisk", "syslinux")
"""Packages that the installation needs and the live system does not have."""
FLAVOR: Final = "lts"
_FEATURES: Final = "ata base cryptkey cryptsetup ext4 lvm mmc nvme scsi tower usb virtio"
_GROUPS: Final = ("wheel", "audio", "video", "input", "netdev", "seat")
_SHELL: Final = "/bin/bash"
_DESKTOP: Final = ("udev", "udev-trigger", "seatd")
"""Services of the desktop, which the live system does not have."""
_SERVICES: Final = ("fsck", "root", "localmount", "swap", "loadkmap")
_SECONDS: Final = 300
_LONG: Final = 3600
_AGAIN: Final = "the medium is damaged, or was not made whole: write it again"
_FAILING: Final = "is a disk full, failing or taken out, or the medium? see dmesg"
_MOTD: Final = """\
Welcome to TowerOS.

    less ~/docs/index.md     the manual
    tower --help             the commands

"""
_GRUB_MODULES: Final = (
    "part_gpt", "fat", "normal", "linux", "search", "search_fs_uuid", "configfile", "echo", "test", "gzio", "efi_gop",
    "all_video",
)  # fmt: skip


def add_tools() -> None:
    """Install the packages that the installation needs into the live system. Raises PackageError."""
    _apk("add", *TOOLS, hint=_AGAIN)
    proc.run(("modprobe", "-a", "dm-mod", "dm-crypt", "ext4", "vfat"), timeout=_SECONDS)


def add_packages(key: bytes, *, signed: bool) -> None:
    """Install the system's packages, which also makes its initramfs with the key, unless it will be signed.

    Raises PackageError.
    """
    world = _read(WORLD).split()
    initramfs_settings(TARGET, signed=signed)
    _write("etc/mkinitfs/features.d/tower.files", "/etc/lvm/lvm.conf\n")
    _write("etc/lvm/lvm.conf", LVM_CONFIG)
    _write("etc/update-extlinux.conf", "# The boot menu is tower's: nothing makes it anew.\noverwrite=0\n")
    _write_secret(TARGET / KEY_FILE, key)
    if not (TARGET / "boot" / KEY_FILE).exists():  # in an upgrade it stays as it is
        write_key(key)
    _write("etc/apk/repositories", _read(REPOSITORIES))
    keys = TARGET / "etc/apk/keys"
    keys.mkdir(parents=True, exist_ok=True)
    for one in Path("/etc/apk/keys").glob("*.pub"):
        shutil.copyfile(one, keys / one.name)
    trusted = ("--keys-dir", "/etc/apk/keys", "--repositories-file", "/etc/apk/repositories")
    # The medium was found whole before.
    _apk("--root", TARGET, "--initdb", *trusted, "add", *world, hint=_FAILING)
    for left in TARGET.glob("etc/**/*.apk-new"):
        left.unlink()
    _check_kernel(signed=signed)


def initramfs_settings(root: Path, *, signed: bool) -> None:
    """Write what the initramfs has to have. If what is started is signed, mkinitfs puts none beside it by itself."""
    own = 'disable_trigger="yes"\n' if signed else ""
    place = root / "etc/mkinitfs/mkinitfs.conf"
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    place.write_text(f'# Made when this system was installed.\nfeatures="{_FEATURES}"\n{own}', encoding="utf-8")


def write_key(key: bytes) -> None:
    """Write the key of the root disk to the boot device. Raises OSError."""
    _write_secret(TARGET / "boot" / KEY_FILE, key)


def add_kernel(medium: Path) -> None:
    """Install the kernel of the system once more, which also makes the initramfs: a new boot device has neither.

    Raises PackageError if the medium has another version than the system: its modules would not fit.
    """
    kernel = f"linux-{FLAVOR}"
    folder = medium.parent / "apks"
    has = sorted(
        {one.version for path in folder.glob(f"*/{INDEX}") for one in read_index(path).packages.values() if one.name == kernel}
    )
    version = installed_version(TARGET, kernel)
    if version not in has:
        raise PackageError(
            f"the system has {f'{kernel} {version}' if version else f'no {kernel}'}, the medium {', '.join(has) or 'none'}",
            hint="the system's own medium mends that, or put this version in its place, which keeps /home: tower setup --upgrade",
        )
    trusted = ("--keys-dir", "/etc/apk/keys", "--repositories-file", "/etc/apk/repositories")
    signed = signing.has_keys(TARGET)
    initramfs_settings(TARGET, signed=signed)
    _apk("--root", TARGET, *trusted, "fix", "--reinstall", kernel, hint=_FAILING)
    if not signed and not (TARGET / f"boot/initramfs-{FLAVOR}").is_file():
        release = _read(TARGET / f"usr/share/kernel/{FLAVOR}/kernel.release").strip()
        _inside("mkinitfs", "-o", f"/boot/initramfs-{FLAVOR}", release)
    _check_kernel(signed=signed)


def installed_version(root: Path, name: str) -> str:
    """Return the version of a package that apk has installed below `root`; empty if it has not."""
    for place in ("lib/apk/db/installed", "usr/lib/apk/db/installed"):
        with suppress(OSError):
            found = ""
            for line in (root / place).read_text(encoding="utf-8", errors="replace").splitlines():
                # A record has its name before or behind its version; an empty line ends it.
                if line == f"P:{name}":
                    found = name
                elif found and line.startswith("V:"):
                    return line.removeprefix("V:")
    return ""


def boot_mount(made: Made) -> None:
    """Name a new boot device in the fstab of the system, in place of the old one."""
    place = TARGET / "etc/fstab"
    rows = [row for row in place.read_text(encoding="utf-8").splitlines() if row.split()[1:2] != ["/boot"] or row.startswith("#")]
    place.write_text("\n".join([*rows, _boot_row(made), ""]), encoding="utf-8")


def _boot_row(made: Made) -> str:
    return f"UUID={made.boot}\t/boot\tvfat\trw,nodev,nosuid,noexec,umask=0077\t0 0"


def _check_kernel(*, signed: bool) -> None:
    for name in (f"vmlinuz-{FLAVOR}", *([] if signed else [f"initramfs-{FLAVOR}"])):
        if not (TARGET / "boot" / name).is_file():
            raise ImageProblemError(f"the packages of the medium made no /boot/{name}", hint=_AGAIN)


def _read(path: Path) -> str:
    """Return a file of the medium's settings. Raises ImageProblemError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise ImageProblemError(f"{path}: is not there", hint=_AGAIN) from None


def _apk(*words: str | Path, hint: str) -> None:
    try:
        proc.run(("apk", "--no-network", "--no-cache", "--no-progress", *words), timeout=_LONG)
    except ToolError as error:
        raise PackageError(f"packages of the medium: {error.message}", hint=hint) from error


def settings(made: Made, *, swap: bool) -> None:
    """Write the settings in /etc that depend on this machine and its disks. Raises ToolError."""
    rows = [
        f"/dev/{GROUP}/root\t/\text4\trw,relatime\t0 1",
        f"/dev/{GROUP}/home\t/home\text4\trw,nodev,nosuid,relatime\t0 2",
        _boot_row(made),
        "tmpfs\t/tmp\ttmpfs\tnodev,nosuid,mode=1777\t0 0",
    ]
    if swap:
        rows.append(f"/dev/{GROUP}/swap\tnone\tswap\tsw\t0 0")
    _write("etc/fstab", "\n".join(["# Made when this system was installed.", *rows, ""]))
    _write("etc/crypttab", f"{MAPPING}\tUUID={made.luks}\t/{KEY_FILE}\tluks\n")
    _write("etc/motd", _MOTD)
    for service in _SERVICES:
        if service != "swap" or swap:
            _inside("rc-update", "add", service, "boot")
    for service in _DESKTOP:
        _inside("rc-update", "add", service, "default")
    if serial := serial_line():
        with (TARGET / "etc/inittab").open("a", encoding="utf-8") as stream:
            stream.write(f"{serial}::respawn:/sbin/getty -L 0 {serial} vt100\n")


def choices(answers: Answers) -> None:
    """Set keyboard, time zone and language. Raises ToolError."""
    _write("etc/locale.conf", f"LANG={answers.lang}\n")
    _write("etc/profile.d/10tower-lang.sh", f"# Made when this system was installed.\nexport LANG={answers.lang}\n")
    _inside("setup-keymap", answers.keyboard_layout, answers.keyboard_variant)
    _inside("setup-timezone", "-z", answers.timezone)


def serial_line(root: Path = Path("/")) -> str:
    """Return the serial line that is a console of this system and exists; empty if there is none."""
    try:
        names = (root / "sys/class/tty/console/active").read_text().split()
        found = [name for name in names if name.startswith("ttyS")]
        # A line without a chip behind it has type 0.
        return next((name for name in found if (root / f"sys/class/tty/{name}/type").read_text().strip() != "0"), "")
    except OSError:
        return ""


def user(name: str, password_hash: str, number: int | None = None) -> None:
    """Add the only user, who becomes root with doas; root cannot log in. Raises ToolError.

    `number` is the user ID if the home already exists.
    """
    own = [] if number is None else ["-H", "-u", str(number)]
    _inside("adduser", "-D", *own, "-s", _SHELL, "-g", "", name)
    known = {line.partition(":")[0] for line in (TARGET / "etc/group").read_text().splitlines()}
    for group in _GROUPS:
        if group in known:
            _inside("addgroup", name, group)
    _inside("chpasswd", "-e", stdin=f"{name}:{password_hash}\nroot:!\n".encode())
    for left in ("passwd-", "shadow-", "group-"):
        (TARGET / "etc" / left).unlink(missing_ok=True)


def tower(name: str, medium: Path, *, new: bool) -> None:
    """Copy `tower`, the host images and the manual, into a `new` home or a used one. Raises ImageProblemError."""
    unpack_wheels(medium / "wheels", TARGET / "usr/lib/tower")
    home = TARGET / "home" / name
    builds = home / ".cache/tower/builds"
    builds.mkdir(parents=True, exist_ok=True)
    for image in sorted((medium / "images").glob("toweros-*")):
        shutil.copyfile(image, builds / image.name)
    # Of an older version, in an upgrade.
    shutil.rmtree(home / "docs", ignore_errors=True)
    shutil.copytree(medium / "docs", home / "docs")
    checksums = Path("/etc/tower/images.sha256")
    if checksums.is_file():
        shutil.copyfile(checksums, TARGET / "etc/tower" / checksums.name)
    # Nothing else in a home that has been used is ours to change; on the medium nobody may write.
    places = [f"/home/{name}"] if new else [f"/home/{name}/.cache/tower/builds", f"/home/{name}/docs"]
    _inside("chown", "-R", f"{name}:{name}", *places)
    _inside("chmod", "-R", "u+w", *places)
    if new:
        _inside("chmod", "0700", f"/home/{name}")


def desktop_at_login(name: str) -> None:
    """Make each login of a new user on the first console start the desktop. Raises ToolError."""
    # As `startw --at-login yes` writes it; the settings that are not there are the usual ones.
    _write(f"home/{name}/.config/tower/desktop", "at_login=yes\n")
    _inside("chown", "-R", f"{name}:{name}", f"/home/{name}/.config")


def kernel_words(luks: str) -> list[str]:
    """Return the words of the kernel's command line; `luks` is the UUID of the encrypted partition."""
    own = [f"root=/dev/{GROUP}/root", "rootfstype=ext4", f"cryptroot=UUID={luks}", f"cryptdm={MAPPING}", "cryptkey=yes"]
    return ["console=tty0", *([f"console={line},115200"] if (line := serial_line()) else []), "panic=30", "quiet", *own]


def encrypted_root(crypttab: Path) -> str:
    """Return the UUID of the encrypted partition of the running system. Raises StateError unless it is an installed one."""
    rows = [row.split() for row in crypttab.read_text(errors="replace").splitlines()] if crypttab.is_file() else []
    found = [row[1].removeprefix("UUID=") for row in rows if row[:1] == [MAPPING] and row[1:2] and row[1].startswith("UUID=")]
    if len(found) != 1:
        raise StateError("this is no installed TowerOS", hint="start the machine from its disk, and run this there")
    if not (Path("/boot") / KEY_FILE).is_file():
        raise StateError("the boot device is not mounted at /boot", hint="plug it in, then: doas mount /boot")
    return found[0]


def sign(root: Path, luks: str) -> None:
    """Write what the firmware starts for the system below `root`, signed with the keys there. Raises TowerError."""
    initramfs_settings(root, signed=True)
    signing.write_start(root, kernel_words(luks), FLAVOR, installed_version(root, f"linux-{FLAVOR}"))


def boot_files(made: Made) -> bytes:
    """Write the boot loaders' files for BIOS and UEFI, or what is signed; return the boot sector for BIOS. Raises TowerError."""
    code = (TARGET / "usr/share/syslinux/gptmbr.bin").read_bytes()
    if signing.has_keys(TARGET):
        sign(TARGET, made.luks)
        return code
    words = kernel_words(made.luks)
    kernel = f"/vmlinuz-{FLAVOR}"
    _write(
        "boot/extlinux.conf",
        "SERIAL 0 115200\nPROMPT 0\nTIMEOUT 10\nDEFAULT tower\nLABEL tower\n"
        f"\tKERNEL {kernel}\n\tINITRD /initramfs-{FLAVOR}\n\tAPPEND {' '.join(words)}\n",
    )
    entry = f"\tlinux {kernel} {' '.join(words)}\n\tinitrd /initramfs-{FLAVOR}\n"
    _write("boot/grub/grub.cfg", f'set timeout=1\nset default=0\nmenuentry "TowerOS" {{\n{entry}}}\n')
    _write("tmp/early.cfg", f"search --no-floppy --set=root --fs-uuid {made.boot}\nset prefix=($root)/grub\n")
    (TARGET / "boot/EFI/BOOT").mkdir(parents=True, exist_ok=True)
    grub = ("--format=x86_64-efi", "--directory=/usr/lib/grub/x86_64-efi", "--prefix=/grub", "--config=/tmp/early.cfg")
    _inside("grub-mkimage", *grub, "--output=/boot/EFI/BOOT/BOOTX64.EFI", *_GRUB_MODULES)
    (TARGET / "tmp/early.cfg").unlink()
    # From outside: it looks its device up by the folder that the system knows.
    proc.run(("extlinux", "--install", TARGET / "boot"), timeout=_SECONDS)
    return code


def _inside(*argv: str, stdin: bytes | None = None) -> None:
    """Run a program of the new system in it."""
    proc.run(("chroot", TARGET, *argv), stdin=stdin, timeout=_SECONDS)


def _write(name: str, text: str) -> None:
    place = TARGET / name
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def _write_secret(place: Path, data: bytes) -> None:
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(handle, "wb") as out:
        out.write(data)


def keep_log(lines: Iterable[str]) -> None:
    """Keep the log in the new system."""
    _write("var/log/tower-setup.log", "".join(f"{line}\n" for line in lines))
