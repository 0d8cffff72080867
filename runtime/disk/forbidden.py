# SPDX-License-Identifier: Apache-2.0
"""Files that must not become the disk of a virtual machine: the image and its files, tower's own files, the kernel's.

A file is identified by its inode, not by its name: hard links, symbolic links and bind mounts all lead to the same one. A
file that does not exist yet is identified by the folder that it would be made in.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tower.base.errors import DeviceError
from tower.base.files import look
from tower.base.refused import home_folder, refused
from tower.hosts.registry import tower_of_user
from tower.image.source import builds_folder, is_image

_KERNELS_FOLDERS: Final = (Path("/dev"), Path("/proc"), Path("/sys"))
_KERNELS_FILE_SYSTEMS: Final = (
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl",
    "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs",
)  # fmt: skip
_SYSTEMS_FOLDERS: Final = (Path("/etc/tower"), Path(__file__).parents[1])
"""Trusted keys and checksums of images; the program itself."""
_VOUCHES: Final = re.compile(
    r"(sha|md|b2|blake)[0-9a-z-]*sums?(\..*)?|checksums?(\..*)?|.*\.(minisig|sig|asc|gpg|(sha|md|b2|blake)[0-9a-z-]*)",
    re.IGNORECASE,
)
"""Names of signatures and checksums."""
_MOST_LINKS: Final = 40
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_HINT: Final = "with --device-file, name a file of your own, outside of tower's folder and that of the image"

Inode = tuple[int, int]


def check_file(path: Path, image: Path) -> None:
    """Raise DeviceError if no disk may be written to `path`, whether the file exists or not. Changes nothing."""
    about = look(path, DeviceError)
    if about is not None and stat.S_ISBLK(about.st_mode):
        raise DeviceError(f"{path}: is a device", hint=f"use --device {path}")
    real = _real(path)
    for step in (*_steps(path), real):
        _check_place(path, step)
    if about is not None and ((named := look(real, DeviceError)) is None or _inode(named) != _inode(about)):
        raise DeviceError(f"{path}: leads to a file without a name", hint=_HINT)
    if about is not None and not stat.S_ISREG(about.st_mode):
        raise DeviceError(f"{path}: is not a regular file", hint=_HINT)
    parent = look(real.parent, DeviceError)
    if parent is None or not stat.S_ISDIR(parent.st_mode):
        raise DeviceError(f"{path}: there is no folder {real.parent}", hint="make it first, or name a file in another one")
    there = real.parent if about is None else real
    if not os.access(there, os.W_OK):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise refused(OSError(number, os.strerror(number)), there, kind=DeviceError, hint=_HINT)
    _check_file_system(path, (about or parent).st_dev)
    _check_inode(path, real, None if about is None else _inode(about), image)


def check_open_file(handle: int, path: Path, image: Path) -> None:
    """Do as `check_file`, for the regular file that a descriptor is open on, wherever `path` leads by now. Raises DeviceError."""
    real, about = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle)
    if not about.st_nlink:
        raise DeviceError(f"{path}: was removed meanwhile", hint="start again")
    _check_place(path, real)
    _check_file_system(path, about.st_dev)
    _check_inode(path, real, _inode(about), image)


def check_loop(disk: Path, image: Path) -> None:
    """Raise DeviceError if no disk may be written to the file behind a loop device."""
    backing = _backing_file(disk.name)
    if (about := _stat_or_none(backing)) is not None:
        _check_inode(disk, backing, _inode(about), image, but=disk.name)


def _steps(path: Path) -> Iterator[Path]:
    """Yield a path as written, and each path that its links lead to: /dev/stdout may lead to any file."""
    for _ in range(_MOST_LINKS):
        path = Path(os.path.abspath(path))  # noqa: PTH100  (links are followed one by one)
        yield path
        if not path.is_symlink():
            return
        path = _real(path.parent) / path.readlink()


def _check_place(path: Path, real: Path) -> None:
    folder = next((folder for folder in _KERNELS_FOLDERS if real.is_relative_to(folder)), None)
    if folder is not None:
        raise DeviceError(
            f"{path}: is below {folder}, where no disk of a virtual machine may be",
            hint="to write a disk of this machine, use --device; lsblk shows its name",
        )


def _check_file_system(path: Path, number: int) -> None:
    """Check the file system that a file lies in, or would, by its number."""
    if (kind := _kind_of_file_system(number)) in _KERNELS_FILE_SYSTEMS:
        raise DeviceError(f"{path}: is in a file system of the kernel ({kind})", hint=_HINT)
    # In a container, /dev is an ordinary file system with devices in it.
    if os.path.ismount("/dev") and Path("/dev").stat().st_dev == number:
        raise DeviceError(f"{path}: is among the devices, in /dev", hint=_HINT)


def _check_inode(path: Path, real: Path, inode: Inode | None, image: Path, *, but: str = "") -> None:
    """Check a file by its inode, or a new one by its folder; `but` is the loop device that may be behind the file."""
    above = [_inode(about) for folder in real.parents if (about := _stat_or_none(folder)) is not None]
    if _is_of_images(real.name, inode, above, image):
        raise DeviceError(f"{path}: is this image, another one, or a file that belongs to one", hint=_HINT)
    own = _inodes_of_tower()
    if inode in own or own.intersection(above) or real in {_real(top) for top in _own_folders()}:
        raise DeviceError(f"{path}: is a file of tower's own or of ssh, or in a folder of theirs", hint=_HINT)
    if user := next((user for user, one in _in_use(but) if one == inode), ""):
        raise DeviceError(f"{path}: is in use: {user}", hint="end that first, or name another file")


def _is_of_images(name: str, inode: Inode | None, above: list[Inode], image: Path) -> bool:
    """Tell whether it is this image, another one, or a file that belongs to one; or has such a name."""
    images = {image.name, _real(image).name}
    folders = {image.absolute().parent, _real(image).parent, builds_folder(), home_folder() / ".cache/tower/builds"}
    for folder in folders:
        if inode is not None:
            if inode in {found for entry, found in _entries(folder) if _belongs(entry, images)}:
                return True
        elif above and (about := _stat_or_none(folder)) is not None and _inode(about) == above[0] and _belongs(name, images):
            return True
    return False


def _belongs(name: str, images: set[str]) -> bool:
    ours = any(name == image or name.startswith(f"{image}.") for image in images)
    return ours or is_image(name) or _VOUCHES.fullmatch(name) is not None


def _inodes_of_tower() -> frozenset[Inode]:
    """Return all files and folders of tower's: hosts with their keys, ssh's configuration, keys of the system, the program."""
    found: set[Inode] = set()
    for top in _own_folders():
        # A link to a folder is not followed: the folder may hold many other files.
        for folder, _, names in os.walk(top):
            paths = (Path(folder), *(Path(folder, name) for name in names))
            found.update(_inode(about) for path in paths if (about := _stat_or_none(path)) is not None)
    return frozenset(found)


def _own_folders() -> tuple[Path, ...]:
    """Return the folders of tower's and ssh's files; a host's folder may be a link, to an encrypted disk for instance."""
    tower, hosts = tower_of_user(), list[Path]()
    with suppress(OSError):
        folders = [path for path in (tower.folder / "hosts").iterdir() if path.is_symlink() and path.is_dir()]
        hosts = [path for path in folders if not _real(tower.folder).is_relative_to(_real(path))]
    return tower.folder, *hosts, tower.ssh_config.parent, *_SYSTEMS_FOLDERS


def _entries(folder: Path) -> Iterator[tuple[str, Inode]]:
    """Yield name and inode of everything in a folder; links are followed."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                yield entry.name, _inode(entry.stat())


# --- the kernel's view -----------------------------------------------------------------------------------------------


def _real(path: Path) -> Path:
    """Return where a path leads; a circle of links leads to itself."""
    return Path(os.path.realpath(path))


def _inode(about: os.stat_result) -> Inode:
    return about.st_dev, about.st_ino


def _kind_of_file_system(number: int) -> str:
    """Return the type of the file system with that number, from the mount table; "" if it is not there."""
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in _lines(Path("/proc/self/mountinfo")):
        words = line.split(" ")
        if words[2] == wanted and "-" in words:
            return words[words.index("-") + 1]
    return ""


def _in_use(but: str) -> Iterator[tuple[str, Inode]]:
    """Yield the files that the kernel uses as disks or as swap, each with its use."""
    for place in Path("/sys/block").glob("loop*"):
        if place.name != but and (about := _stat_or_none(_backing_file(place.name))) is not None:
            yield f"it is what is behind /dev/{place.name}", _inode(about)
    for line in _lines(Path("/proc/swaps"))[1:]:
        name = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[0].split("\t")[0])
        if (about := _stat_or_none(Path(name))) is not None:
            yield "it is swap", _inode(about)


def _backing_file(loop: str) -> Path:
    return Path("\n".join(_lines(Path(f"/sys/block/{loop}/loop/backing_file"))) or "/nonexistent")


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
