# SPDX-License-Identifier: Apache-2.0
"""The lab's mirror as a whole: made by two builds at once, and after a death at any moment, its files are always the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.test_lab_channel import CHECKOUT, Lab, contents, mirror_of
from tests.unit.lab.test_repack import DYING

MAKE = """
import sys
from pathlib import Path
from tests.integration.test_lab_channel import Lab, mirror_of
lab = Lab(Path(sys.argv[1]))
mirror = mirror_of(lab.driver())
{before}
mirror.make(lab.progress)
print("\\n".join(lab.progress.said))
{after}
"""
WAITING = "lab: another build is making the mirror; waiting"
COUNTED = "print('calls', int(sys.argv[3]) - left)"
MANY = 1 << 30
SECONDS = 300


@dataclass(frozen=True)
class Whole:
    """A mirror that one build has made alone: its home, its files, and the calls that change the file system of making it."""

    home: Path
    files: dict[str, bytes]
    converted: dict[str, bytes]
    calls: int
    """From nothing but the key, the base's packages and the lock of Debian's."""
    last: int
    """With the conversions as well."""


def start(folder: Path, calls: int = MANY) -> subprocess.Popen[str]:
    """A process that makes the mirror, and dies when it is about to do the call with this number."""
    argv = [sys.executable, "-c", MAKE.format(before=DYING, after=COUNTED), str(folder), "", str(calls)]
    env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'runtime'}"}
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def counted(process: subprocess.Popen[str]) -> int:
    """The calls of a process that ends well."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return int(out.split()[-1])


def prepared(folder: Path, whole: Path, *names: str) -> Path:
    """A checkout with parts of a lab that was made."""
    folder.mkdir()
    home = mirror_of(Lab(folder).driver()).home
    home.mkdir(parents=True)
    for name in ("keys", "base", *names):
        shutil.copytree(whole / name, home / name)
    shutil.copy2(whole / "supply.lock.json", home)
    return home


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    lab = Lab(folder)
    mirror = mirror_of(lab.driver())
    mirror.make(lab.progress)
    files, converted = contents(mirror.folder), contents(mirror.home / "apk")
    calls = []
    for number, names in enumerate([(), ("apk",)]):
        again = folder / str(number)
        prepared(again, mirror.home, *names)
        calls.append(counted(start(again)))
    return Whole(mirror.home, files, converted, *calls)


def check(home: Path, whole: Whole) -> None:
    """The mirror is the right one, its conversions are whole, and nothing is left of whoever died."""
    assert contents(home / "mirror") == whole.files
    assert contents(home / "apk") == whole.converted
    # Between a folder and its mark nobody can tell whose it is: an empty one waits for a day.
    assert not [path for folder in home.rglob("tower-*") if folder.is_dir() for path in folder.iterdir()]


def test_two_builds_at_once_make_one_mirror(whole: Whole, tmp_path: Path) -> None:
    home = prepared(tmp_path / "both", whole.home)
    both = [start(tmp_path / "both") for _ in range(2)]
    said = []
    for process in both:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        said.append(WAITING in out)
    assert sorted(said) == [False, True], "one has waited for the other"
    check(home, whole)


def test_whoever_waits_makes_the_mirror_if_the_other_dies(whole: Whole, tmp_path: Path) -> None:
    home = prepared(tmp_path / "both", whole.home)
    first = start(tmp_path / "both", whole.calls // 2)
    second = start(tmp_path / "both")
    _, err = first.communicate(timeout=SECONDS)
    # Either may have come first; one that finds the mirror made needs fewer calls.
    assert first.returncode in (-signal.SIGKILL, 0), err
    counted(second)
    check(home, whole)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_killed_while_packages_are_converted(whole: Whole, tmp_path: Path, share: float) -> None:
    home = prepared(tmp_path / "killed", whole.home)
    killed(tmp_path / "killed", int(whole.calls * share))
    check(home, whole)


@pytest.mark.parametrize("left", [1, 2, 3, 5, 8])
def test_killed_while_the_new_mirror_takes_the_place_of_the_old_one(whole: Whole, tmp_path: Path, left: int) -> None:
    """The old mirror is one that was changed; at no moment is it, or half of the new one, taken for the right one."""
    home = prepared(tmp_path / "killed", whole.home, "apk", "mirror")
    record = home / "mirror" / "mirror.json"
    record.write_bytes(record.read_bytes().replace(b'"key": "', b'"key": "0', 1))
    (home / "mirror" / "old").touch()
    killed(tmp_path / "killed", whole.last - left)
    check(home, whole)


def killed(folder: Path, calls: int) -> None:
    """Make the mirror, killed at a call; then make it."""
    process = start(folder, calls)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL, err
    counted(start(folder))
