# SPDX-License-Identifier: Apache-2.0
"""A tiny factory: the real code and the real ./ci/doit, with a recipe of three stages that take a second each."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from pipeline.sandbox.engine import LABEL_CHECKOUT, checkout_id

_TINY = Path(__file__).parent / "tiny"
_TAKEN = ("ci", "dodo.py", "pipeline", "pyproject.toml")
_LIMIT = 120


@dataclass(frozen=True)
class Tiny:
    """A checkout with the tiny recipe."""

    folder: Path
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
        return {**kept, "XDG_CACHE_HOME": str(self.cache)}

    def command(self, *args: str) -> tuple[str, ...]:
        return (str(self.folder / "ci" / "doit"), *args)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ./ci/doit in a process group of its own."""
        return subprocess.Popen(
            self.command(*args), env={**self.environment, **(env or {})}, cwd=self.folder, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def doit(self, *args: str, status: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run ./ci/doit to its end; all that it says, once it ended with `status`."""
        process = self.start(*args, env=env)
        try:
            said, _ = process.communicate(timeout=_LIMIT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == status, f"exit status {process.returncode}, not {status}\n{said}"
        assert "Traceback" not in said, said
        return said

    def script(self, stage: str, *lines: str) -> None:
        """Give a stage another script."""
        (self.folder / "stages" / stage / "run.sh").write_text("\n".join(["set -eu", *lines, ""]))

    def write(self, path: str, text: str) -> None:
        """Change a file of the checkout."""
        (self.folder / path).write_text(text)

    @property
    def image(self) -> str:
        """The finished image's content."""
        (path,) = (self.folder / "dist").glob("tiny-*.img.zst")
        return path.read_text()

    def artifacts(self, name: str) -> list[Path]:
        """The files of this name that the store has."""
        return sorted((self.folder / "build" / "store").glob(f"{'[0-9a-f]' * 64}/files/{name}"))

    def leftovers(self) -> list[Path]:
        """What unfinished builds left in the store."""
        return sorted((self.folder / "build" / "store" / "tmp").glob("*"))


def _stamp(folder: Path, venv: Path) -> None:
    """Note what the environment was made from, as ci/doit does; its own words are taken for it."""
    words = re.search(r"^venv_stamp\(\) .*$", (folder / "ci" / "doit").read_text(), re.MULTILINE)
    assert words is not None
    script = f"root=$PWD; {words.group()}\nvenv_stamp"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=True)
    (venv / "stamp").write_bytes(done.stdout)


def make_tiny(folder: Path, checkout: Path, cache: Path) -> Tiny:
    """A checkout at `folder`: the real one's code, with the recipe, channel and stages of tests/integration/tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TAKEN:
        if (checkout / name).is_dir():
            shutil.copytree(
                checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "recipes", "*.toml", "packages")
            )
        else:
            shutil.copy2(checkout / name, folder / name)
    shutil.copytree(_TINY, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dist").mkdir()
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    _stamp(folder, venv)
    return Tiny(folder, cache)


@pytest.fixture
def tiny_at(tmp_path: Path, checkout: Path) -> Iterator[Callable[..., Tiny]]:
    """Makes the tiny factory, in a folder `name`; what its builds left in the engine is removed at the end."""
    made: list[Tiny] = []

    def make(name: str = "tiny") -> Tiny:
        made.append(make_tiny(tmp_path / name, checkout, tmp_path / "cache"))
        return made[-1]

    yield make
    engine = docker.from_env()
    for label in (f"{LABEL_CHECKOUT}={checkout_id(one.folder)}" for one in made):
        for container in engine.containers.list(all=True, filters={"label": label}, ignore_removed=True):
            container.remove(force=True, v=True)
        for volume in engine.volumes.list(filters={"label": label}):
            volume.remove(force=True)
        for image in engine.api.images(filters={"label": label}, quiet=True):
            engine.api.remove_image(image, force=True)


@pytest.fixture
def tiny(tiny_at: Callable[[], Tiny]) -> Tiny:
    """A tiny factory in a folder of its own."""
    return tiny_at()


@pytest.fixture
def tiny_on(tiny_at: Callable[[], Tiny], small_disk: Callable[[str], Path]) -> Callable[[str], Tiny]:
    """Makes the tiny factory with a small disk for build/."""

    def make(size: str) -> Tiny:
        made = tiny_at()
        (made.folder / "build").symlink_to(small_disk(size), target_is_directory=True)
        return made

    return make
