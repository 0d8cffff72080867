# SPDX-License-Identifier: Apache-2.0
"""Python wheels for the device: chosen and fetched by pip, for the device's Python and not for ours, by hash.

pip downloads the pinned requirements once; what it chose is noted in the user's cache, so that the same requirements
need no network again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import proc
from pipeline.canonical import Digest, digest_bytes, digest_file, digest_json
from pipeline.channel import LockedFile, Progress
from pipeline.errors import FetchError, ToolError, VerifyError
from pipeline.locks import locked

_SECONDS = 900
_GLIBC = ("2_41", "2_34", "2_28", "2_17")
_KEPT = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
_HINT = "look at the network; the wheels come from the Python package index, or from where pip's settings say"


@dataclass(frozen=True, slots=True)
class WheelSet:
    """Wheels that one architecture's Python takes."""

    requirements: Path
    python: str
    arch: str

    @property
    def key(self) -> Digest:
        """Names the question; the answer never changes, as the requirements name digests."""
        return digest_json([digest_file(self.requirements), self.python, self.arch, list(_GLIBC)])


class WheelCache:
    """Wheels below the user's cache: `sets/` says which, files are kept by content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, wheel: LockedFile) -> Path:
        """Where a wheel is kept."""
        return self.folder / wheel.sha256 / wheel.location

    def resolve(self, wanted: WheelSet, progress: Progress) -> tuple[LockedFile, ...]:
        """The wheels of a set, all of them in the cache on return. Raises FetchError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "sets" / f"{wanted.key}.json"
        with locked(self.folder / "guard"):
            found = self._noted(note)
            if not found or not all(self.is_whole(wheel) for wheel in found):
                progress.say(f"lab: Python {wanted.python} wheels for {wanted.arch}")
                found = self._download(wanted)
                note.parent.mkdir(exist_ok=True)
                rows = [asdict(wheel) for wheel in found]
                temporary = note.with_suffix(f".{os.getpid()}")
                temporary.write_text(json.dumps(rows, indent=1))
                temporary.replace(note)
        return found

    def is_whole(self, wheel: LockedFile) -> bool:
        """Is the wheel there, with the content it must have?"""
        path = self.path(wheel)
        return path.is_file() and path.stat().st_size == wheel.size and digest_file(path) == wheel.sha256

    def copy(self, wheels: tuple[LockedFile, ...], output: Path) -> None:
        """Copy wheels into `output`, verified on the way."""
        for wheel in wheels:
            try:
                data = self.path(wheel).read_bytes()
            except FileNotFoundError as error:
                raise VerifyError(f"{wheel.location}: is not in the download cache", hint="run: ./ci/doit fetch") from error
            if digest_bytes(data) != wheel.sha256:
                raise VerifyError(f"{wheel.location}: sha256 differs from the lock", hint="run: ./ci/doit fetch")
            (output / wheel.location).write_bytes(data)

    def _noted(self, note: Path) -> tuple[LockedFile, ...]:
        try:
            return tuple(LockedFile(**row) for row in json.loads(note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return ()

    def _download(self, wanted: WheelSet) -> tuple[LockedFile, ...]:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            argv = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download"]
            argv += [
                "--require-hashes",
                "--only-binary=:all:",
                "--no-deps",
                "--dest",
                scratch,
                "--requirement",
                str(wanted.requirements),
            ]
            argv += ["--implementation=cp", f"--python-version={wanted.python}"]
            argv += [f"--platform=manylinux_{version}_{wanted.arch}" for version in _GLIBC]
            env = {name: os.environ[name] for name in _KEPT if name in os.environ}
            try:
                proc.run(argv, env=env, timeout=_SECONDS)
            except ToolError as error:
                kind = VerifyError if "HASHES" in error.message else FetchError
                raise kind(f"wheels of {wanted.requirements.name} for {wanted.arch}: {error.message}", hint=_HINT) from error
            found = []
            for path in sorted(Path(scratch).iterdir()):
                name, version = path.name.split("-")[:2]
                wheel = LockedFile(name, version, digest_file(path), path.stat().st_size, path.name)
                target = self.path(wheel)
                target.parent.mkdir(exist_ok=True)
                shutil.move(path, target)
                found.append(wheel)
        return tuple(sorted(found))
