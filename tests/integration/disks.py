# SPDX-License-Identifier: Apache-2.0
"""Hosts of a user with a home of their own, made by the command `tower` with disks in files: for tests of what writes disks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tower.cli import main
from tower.disk import receipt
from tower.disk.receipt import Stage

from tests.unit.runtime.disks import MIB, garbage, make_image, tool, write_manifest

COMMON = ("--offline", "--username", "al", "--target", "pc", "--unsigned", "--no-wait", "--yes", "--json")
AGAIN = ("--unsigned", "--no-wait", "--yes", "--json")


def make_builds(folder: Path) -> Path:
    """Version 1.2.0, and 1.3.0 in the folder `new`."""
    (folder / "new").mkdir()
    image = make_image(folder, compress="zstd")
    renamed(image, folder / "new", image.name.replace("1.2.0", "1.3.0"), "1.3.0")
    return folder


def renamed(image: Path, folder: Path, name: str, version: str) -> Path:
    """The same image under another version."""
    for ending in ("", ".bmap"):
        shutil.copyfile(f"{image}{ending}", folder / f"{name}{ending}")
    with (folder / name).open("ab") as stream:  # an empty frame: other bytes, the same content
        stream.write(subprocess.run(["zstd", "-q"], input=b"", capture_output=True, check=True, timeout=10).stdout)
    write_manifest(folder / name)
    manifest = folder / f"{name}.manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "1.2.0"', f'"version": "{version}"'))
    return folder / name


def run(home: Path, *argv: str, status: int = 0, code: str = "from tower.cli import main as cli") -> str:
    """What the command says: on stdout, or on stderr if it is to fail; `code` runs before it."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    program = f"{code}\nimport sys\nsys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *argv], cwd=home, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def provisioned(home: Path, builds: Path, tmp_path: Path, name: str, *, used: bool = True) -> Path:
    """The disk of a host of version 1.2.0, which answered; it was used before, or is a new one."""
    (image,) = builds.glob("*.img.zst")
    target = tmp_path / f"{name}.img"
    target.write_bytes(garbage(96 * MIB if used else 0))
    os.truncate(target, 96 * MIB)
    run(home, "provision", name, *COMMON, "--image", str(image), "--device-file", str(target))
    path = home / ".local/tower/hosts" / name / "receipt.json"
    receipt.write(path, receipt.read(path).at(Stage.ANSWERED, system="TowerOS"))
    return target


def newer(builds: Path) -> tuple[str, str]:
    """The arguments that name version 1.3.0."""
    (image,) = (builds / "new").glob("*.img.zst")
    return "--image", str(image)


def begun(home: Path, *argv: str) -> None:
    """A command that writes a disk, killed when most of it is written."""
    run(
        home,
        *argv,
        status=7,
        code="import os\nfrom tower.cli import main as cli\nfrom tower.disk import make\nmake._grow = lambda *_: os._exit(7)",
    )


class Refusals:
    """The command as it is typed, many times, without starting Python anew: it must be refused."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *argv: str | Path, status: int = 14) -> str:
        """What it said."""
        assert main.main([str(word) for word in argv]) == status
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.out == ""
        return said.err


def seen(*folders: Path) -> dict[str, str]:
    """All files below folders, with what they hold."""
    found = {}
    for path in sorted(path for folder in folders for path in (folder, *folder.rglob("*"))):
        if path.is_file():
            with path.open("rb") as stream:
                found[str(path)] = f"{path.stat().st_size} {hashlib.file_digest(stream, 'blake2b').hexdigest()}"
        elif not path.is_dir() or path.is_symlink():
            found[str(path)] = "no file"
    return found


@contextmanager
def bound(source: Path, point: Path) -> Iterator[Path]:
    """A bind mount, which only root makes."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    point.mkdir() if source.is_dir() else point.touch()
    tool("mount", "--bind", source, point)
    try:
        yield point
    finally:
        tool("umount", point)
        point.rmdir() if source.is_dir() else point.unlink()


@contextmanager
def looped(file: Path, *options: str) -> Iterator[Path]:
    """A loop device on a file."""
    try:
        device = Path(tool("losetup", "--find", "--show", *options, file).strip())
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this machine gives no loop devices")
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True, timeout=30)


@contextmanager
def disk(file: Path, size: int = 96 * MIB, *options: str) -> Iterator[Path]:
    """A loop device on a new file, which begins with something."""
    file.write_bytes(garbage(MIB, seed=len(str(file))))
    os.truncate(file, size)
    with looped(file, *options) as device:
        yield device
