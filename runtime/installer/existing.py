# SPDX-License-Identifier: Apache-2.0
"""An installed system, found on this machine's disks and opened, so that a new version can take its place.

What the user has chosen is carried over as the files that hold it. It is kept in /home, which is encrypted and stays, before
the old root is given up: an upgrade that was cut off goes on with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import DeviceError, StateError
from tower.base.jsontext import parse_json
from tower.base.names import parse_user_name
from tower.base.refused import refused
from tower.base.regular import open_regular
from tower.disk.device import FIXED, Disk
from tower.installer import disks, signing
from tower.installer.disks import CRYPT_NAME, GROUP, START_NAME, TARGET

KEY_FILE: Final = "crypto_keyfile.bin"
KEPT: Final = TARGET / "home/.tower-upgrade"
"""Readable by root only; exists only during an upgrade."""
_FILES: Final = (
    "etc/conf.d/loadkmap", "etc/keymap", "etc/localtime", "etc/timezone", "etc/zoneinfo", "etc/locale.conf",
    "etc/profile.d/10tower-lang.sh", str(signing.FOLDER),
)  # fmt: skip
"""Files that the user chose or may have changed: keyboard, time zone, language; and the keys of Secure Boot."""
_REPOSITORIES: Final = "etc/apk/repositories"
_BRANCH: Final = re.compile(r"/v[0-9]+\.[0-9]+/")
_USERS: Final = range(1000, 60000)
KEY_MOST: Final = 8 << 20
"""Bytes of a key file, at most: cryptsetup reads no more."""
_SECONDS: Final = 60
_BOOT: Final = Path("/run/tower/boot-device")
_PLUG_IN: Final = "plug in the boot device of that system, or a copy of it: without its key nothing there can be read"


@dataclass(frozen=True, slots=True)
class Account:
    """The only user of an installed system."""

    name: str
    number: int
    password_hash: str


@dataclass(frozen=True, slots=True)
class Existing:
    """The two disks of an installed system."""

    root: Disk
    boot: Disk
    part: Path
    boot_part: Path
    key: bytes = field(repr=False)

    def rows(self) -> dict[str, object]:
        """Return what an upgrade will do, for people and as JSON."""
        return {
            "root_disk": f"{self.root}: its system is replaced, /home stays",
            "boot_device": f"{self.boot}: its kernel and boot loaders are written again, its key stays",
        }


@dataclass(frozen=True, slots=True)
class Locked:
    """The root disk of an installed system, and a copy of its key."""

    root: Disk
    part: Path
    key: bytes = field(repr=False)


def find_existing(found: tuple[Disk, ...]) -> Existing:
    """Find the installed system whose key is on one of this machine's disks. Raises StateError or DeviceError."""
    free, roots = _roots(found)
    keys = [(disk, part, _key(part)) for disk in free for part in disks.parts_named(disk, START_NAME)]
    fits = [
        Existing(root, boot, part, boot_part, key)
        for root, part in roots
        for boot, boot_part, key in keys
        if key and disks.opens(part, key)
    ]
    if len(fits) == 1:
        return fits[0]
    listed = ", ".join(str(disk) for disk, _ in roots)
    if fits:
        pairs = "; ".join(f"{one.root} with {one.boot}" for one in fits)
        raise DeviceError(f"there is more than one: {pairs}", hint="take out the disks that are not meant")
    if not keys:
        raise DeviceError(f"{listed}: locked, and no boot device of a TowerOS is here", hint=_PLUG_IN)
    seen = ", ".join(str(disk) for disk, _, _ in keys)
    raise DeviceError(f"{listed}: the key on {seen} does not open it", hint=_PLUG_IN)


def find_root(found: tuple[Disk, ...], key: bytes) -> Locked:
    """Find the root disk that a key opens. Raises StateError or DeviceError."""
    _, roots = _roots(found)
    fits = [Locked(disk, part, key) for disk, part in roots if key and disks.opens(part, key)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise DeviceError(
            f"the key opens {' and '.join(str(one.root) for one in fits)}", hint="take out the disk that is not meant"
        )
    listed = ", ".join(str(disk) for disk, _ in roots)
    raise DeviceError(f"{listed}: this key does not open it", hint=f"name a copy of that system's {KEY_FILE}")


def _roots(found: tuple[Disk, ...]) -> tuple[list[Disk], list[tuple[Disk, Path]]]:
    """Return the disks that are not in use, and those of them with an encrypted root, each with its partition."""
    free = [disk for disk in found if disk.obstacle in ("", FIXED)]
    roots = [(disk, part) for disk in free for part in disks.parts_named(disk, CRYPT_NAME)]
    if not roots:
        raise StateError("no disk of this machine holds an installed TowerOS", hint="to install it: tower setup")
    return free, roots


def read_key(path: Path) -> bytes:
    """Read a copy of a key file. Raises StateError."""
    try:
        with open_regular(path) as stream:
            key = stream.read(KEY_MOST + 1)
    except OSError as error:
        raise refused(error, path, kind=StateError, hint=f"name a copy of the system's {KEY_FILE}") from error
    if not 0 < len(key) <= KEY_MOST:
        raise StateError(
            f"{path}: has {len(key) or 'no'} bytes: it is no key file", hint=f"name a copy of the system's {KEY_FILE}"
        )
    return key


def _key(part: Path) -> bytes:
    """Return the key on a boot partition; empty if there is no readable one."""
    with mounted(part, _BOOT) as folder:
        try:
            with (folder / KEY_FILE).open("rb") as stream:
                return stream.read(KEY_MOST)
        except OSError:
            return b""


@contextmanager
def mounted(part: Path, folder: Path) -> Iterator[Path]:
    """Mount a FAT partition read-only; the folder is empty if that fails."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = proc.run(("mount", "-t", "vfat", "-o", "ro", part, folder), timeout=_SECONDS, check=False)
    try:
        yield folder
    finally:
        if done.status == 0:
            proc.run(("umount", folder), timeout=_SECONDS)


def keep() -> Account:
    """Copy what the new system takes over from the old one at `TARGET` to a folder in /home; return the user. Raises StateError.

    If an upgrade was cut off, that is there already, and the old system may be gone.
    """
    done = KEPT / "account.json"
    if not done.is_file():
        account = read_account(TARGET)
        if signing.has_keys(TARGET):
            signing.check_keys(TARGET)
        new = KEPT.with_name(f"{KEPT.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name in (*_FILES, _REPOSITORIES):
            _copy(TARGET / name, new / name)
        (new / "account.json").write_text(json.dumps(asdict(account)), encoding="utf-8")
        os.sync()
        shutil.rmtree(KEPT, ignore_errors=True)
        new.rename(KEPT)
        os.sync()
    found = parse_json(done.read_bytes())
    return Account(found["name"], found["number"], found["password_hash"])


def restore() -> None:
    """Copy the kept files into the new system; the package servers are kept, with the new system's branch of Alpine."""
    for name in _FILES:
        _copy(KEPT / name, TARGET / name)
    kept, new = KEPT / _REPOSITORIES, TARGET / _REPOSITORIES
    lines = kept.read_text(encoding="utf-8") if kept.is_file() else ""
    if any(line.strip() and not line.lstrip().startswith("#") for line in lines.splitlines()):
        branch = _BRANCH.search(new.read_text(encoding="utf-8"))
        new.write_text(_BRANCH.sub(branch[0], lines) if branch else lines, encoding="utf-8")


def forget() -> None:
    """Remove the kept files after a successful upgrade."""
    shutil.rmtree(KEPT)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, a link as a link, or a whole folder; do nothing if it does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    elif source.is_symlink() or source.is_file():
        target.unlink(missing_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def read_account(root: Path) -> Account:
    """Return the user of the system below `root`. Raises StateError unless there is exactly one."""
    try:
        rows = [line.split(":") for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines()]
        shadow = [line.split(":") for line in (root / "etc/shadow").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        rows, shadow = [], []
    users = [row for row in rows if len(row) == 7 and row[2].isdigit() and int(row[2]) in _USERS and row[5] == f"/home/{row[0]}"]
    hashes = {row[0]: row[1] for row in shadow if len(row) > 1}
    if len(users) != 1 or users[0][0] not in hashes:
        raise StateError(
            f"/dev/{GROUP}/root: has {len(users)} users, an installed TowerOS has one",
            hint="is it one? an interrupted installation has nothing to keep: tower setup",
        )
    return Account(parse_user_name(users[0][0]), int(users[0][2]), hashes[users[0][0]])
