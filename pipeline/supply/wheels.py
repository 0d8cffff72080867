# SPDX-License-Identifier: Apache-2.0
"""Python wheels for the device: pip chooses and fetches them, for the device's Python and not for ours, by hash.

pip downloads the pinned requirements once; its choice is noted in the user's cache, and the wheels are kept in the vault,
so that the same requirements need no network again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base import proc
from pipeline.base.canonical import Digest, digest_file, digest_json
from pipeline.base.errors import FetchError, LockError, ToolError, VerifyError
from pipeline.base.filelock import locked, try_lock
from pipeline.base.progress import Progress
from pipeline.base.scratch import remove_tree, sweep, temporary_folder
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault

GLIBC = ("manylinux_2_41", "manylinux_2_34", "manylinux_2_28", "manylinux_2_17")
MUSL = ("musllinux_1_2", "musllinux_1_1")
"""Platforms of wheels, without the architecture, best first."""

_SECONDS = 900
_KIND = "wheels"
"""The prefix of the temporary folders beside the notes."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\n\\]*(?:\\\n[^\n\\]*)*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\.whl")
_KEPT = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_CERT",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
)
_HINT = "check the network; the wheels come from the Python package index, or from the index in pip's settings"


@dataclass(frozen=True, slots=True)
class WheelSet:
    """The wheels for one architecture's Python."""

    requirements: Path
    python: str
    arch: str
    platforms: tuple[str, ...]

    @property
    def key(self) -> Digest:
        """Return the key of the set; the answer never changes, as the requirements name digests."""
        return digest_json([digest_file(self.requirements), self.python, self.arch, list(self.platforms)])


class WheelShop:
    """Wheels in the vault; `notes` is the folder that notes which of them belong to a set."""

    def __init__(self, vault: Vault, notes: Path) -> None:
        self.vault = vault
        self.notes = notes

    def resolve(self, wanted: WheelSet, progress: Progress) -> tuple[LockedFile, ...]:
        """Return the wheels of a set, all of them in the vault. Raises FetchError, VerifyError."""
        self.notes.mkdir(parents=True, exist_ok=True)
        note = self.notes / f"{wanted.key}.json"
        with locked(self.notes / "guard"):
            found = _noted(note)
            if found and not _are_of(found, wanted):
                progress.say(f"{note}: was changed: it names wheels that are not in {wanted.requirements.name}; it is made again")
                found = ()
            if not found or self.vault.missing(found):
                progress.say(f"Python {wanted.python} wheels for {wanted.arch}")
                found = self._download(wanted)
                self._note(note, found)
        return found

    def remember(self, wanted: WheelSet, wheels: tuple[LockedFile, ...]) -> None:
        """Note the wheels of a set; the vault must have them already."""
        self.notes.mkdir(parents=True, exist_ok=True)
        with locked(self.notes / "guard"):
            self._note(self.notes / f"{wanted.key}.json", wheels)

    def _note(self, note: Path, wheels: tuple[LockedFile, ...]) -> None:
        temporary = note.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps([asdict(wheel) for wheel in wheels], indent=1))
        temporary.replace(note)

    def tidy(self) -> None:
        """Remove the leftovers of killed runs, and those of an older form."""
        sweep(self.notes, _KIND)
        guard = try_lock(self.notes / "guard") if self.notes.is_dir() else None
        if guard is not None:
            for folder in self.notes.glob("tmp*"):
                remove_tree(folder)
            guard.release()

    def copy(self, wheels: tuple[LockedFile, ...], output: Path) -> None:
        """Copy wheels into `output`, verified on the way. Raises VerifyError, LockError."""
        for wheel in wheels:
            if _WHEEL.fullmatch(wheel.location) is None:
                raise LockError(f"{wheel.location!r}: is not the name of a wheel", hint="lock the channel again: ./ci/doit lock")
            self.vault.copy(wheel, output / wheel.location)

    def _download(self, wanted: WheelSet) -> tuple[LockedFile, ...]:
        words = ("--require-hashes", "--requirement", str(wanted.requirements))
        try:
            return self.take(words, wanted.python, wanted.arch, wanted.platforms)
        except ToolError as error:
            kind = VerifyError if "HASHES" in error.message else FetchError
            raise kind(f"wheels of {wanted.requirements.name} for {wanted.arch}: {error.message}", hint=_HINT) from error

    def take(self, words: Iterable[str], python: str, arch: str, platforms: Iterable[str]) -> tuple[LockedFile, ...]:
        """Return the wheels that pip downloads for `words`, without dependencies, stored in the vault. Raises ToolError."""
        self.notes.mkdir(parents=True, exist_ok=True)
        with temporary_folder(_KIND, self.notes) as folder:
            scratch = folder / "wheels"
            argv = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download"]
            argv += ["--only-binary=:all:", "--no-deps", "--dest", str(scratch)]
            argv += ["--implementation=cp", f"--python-version={python}"]
            argv += [*(f"--platform={platform}_{arch}" for platform in platforms), *words]
            env = {name: os.environ[name] for name in _KEPT if name in os.environ}
            proc.run(argv, env=env, timeout=_SECONDS)
            found = []
            for path in sorted(scratch.iterdir()):
                name, version = path.name.split("-")[:2]
                size = path.stat().st_size
                found.append(LockedFile(name, version, self.vault.put_file(path), size, path.name))
        return tuple(sorted(found))


def _noted(note: Path) -> tuple[LockedFile, ...]:
    try:
        return tuple(LockedFile(**row) for row in parse_json(read_regular(note)))
    except (OSError, ValueError, TypeError):
        return ()


def _are_of(found: tuple[LockedFile, ...], wanted: WheelSet) -> bool:
    """Tell whether a note fits these requirements: one wheel for each, with a pinned digest, for this Python.

    The vault would return any of its files, so a digest in a note is trusted only if the requirements name it.
    """
    pinned = {_plain(row[1]): set(_HASH.findall(row[2])) for row in _REQUIREMENT.finditer(wanted.requirements.read_text())}
    platforms = {"any", *(f"{platform}_{wanted.arch}" for platform in wanted.platforms)}
    return len({_plain(wheel.name) for wheel in found}) == len(found) and all(
        wheel.sha256 in pinned.get(_plain(wheel.name), ())
        and _WHEEL.fullmatch(wheel.location) is not None
        and wheel.location.startswith(f"{wheel.name}-{wheel.version}-")
        and not platforms.isdisjoint(wheel.location.removesuffix(".whl").rpartition("-")[2].split("."))
        for wheel in found
    )


def _plain(name: str) -> str:
    """Return a package's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()
