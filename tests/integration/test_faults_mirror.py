# SPDX-License-Identifier: Apache-2.0
"""The lab's mirror out of reach, and downloads that are damaged: the real channel with a world of one package."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.paths import cache_home
from tests.integration.conftest import Tiny

FETCH_ERROR = 12
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
_WORLD = """
[worlds]
base = ["tzdata"]
"""


def link(source: str, target: str) -> str:
    """A hard link where that can be, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


@pytest.fixture
def lab(tiny_at: Callable[[], Tiny], checkout: Path) -> Tiny:
    """The tiny recipe on the real lab channel, with a cache of its own that starts as the user's."""
    tiny = tiny_at()
    shutil.copy2(checkout / "pipeline/channels/drivers.py", tiny.folder / "pipeline/channels/drivers.py")
    for name in ("pipeline/channels/lab", "pipeline/channels"):
        shutil.rmtree(tiny.folder / name, ignore_errors=True)
        shutil.copytree(checkout / name, tiny.folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    channel = tiny.folder / "pipeline/channels/lab.toml"
    # One architecture and the smallest builder: what the mirror holds is no matter here.
    text = re.sub(
        r"^builder = \[.*?^\]", 'builder = ["apk-tools", "busybox"]', channel.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    channel.write_text(text.replace('["x86_64", "aarch64"]', '["x86_64"]'))
    recipe = tiny.folder / "pipeline/recipes/host.toml"
    text = recipe.read_text().replace('keys = "channel:keys" }', 'repository = "channel:repository" }\narch = "x86_64"\n')
    recipe.write_text(text.rstrip() + '\noptions = { world = ["@world:base"] }\n' + _WORLD)
    stage = tiny.folder / "stages/third/stage.toml"
    stage.write_text(stage.read_text().replace('"keys"', '"repository"') + '\n[options.world]\ntype = "strings"\n')
    (tiny.folder / "runtime").mkdir()
    shutil.copy2(checkout / "runtime" / "requirements.lock", tiny.folder / "runtime" / "requirements.lock")
    for name, copy in (("vault", link), ("wheel-sets", shutil.copy2), ("apt", shutil.copy2)):
        if (cache_home() / "tower" / name).is_dir():
            shutil.copytree(cache_home() / "tower" / name, tiny.cache / "tower" / name, copy_function=copy)
    return tiny


def replaced(path: Path, data: bytes, time_ns: int) -> None:
    """Put other bytes in a file's place; the old file may be the user's own."""
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(time_ns, time_ns))


def test_the_mirror_is_out_of_reach(lab: Tiny) -> None:
    repository = "channel:repository:x86_64"
    lab.doit(repository)
    (tzdata,) = lab.artifacts("v3.23/main/x86_64/tzdata-*.apk")
    whole = tzdata.read_bytes()

    # With a filled cache a build from nothing needs no network: indexes and downloads of before serve.
    shutil.rmtree(lab.folder / "build" / "store")
    for name in ("lock.json", "supply.lock.json"):
        (lab.folder / "build" / "lab" / name).unlink()
    said = lab.doit(repository, env=NO_NETWORK)
    assert "cannot be reached" in said
    (tzdata,) = lab.artifacts("v3.23/main/x86_64/tzdata-*.apk")
    assert tzdata.read_bytes() == whole

    # A download that somebody damaged is noticed, whatever its time says, and never used.
    for name in ("store", "lab/mirror", "lab/apk"):
        shutil.rmtree(lab.folder / "build" / name)
    lock = json.loads((lab.folder / "build" / "lab" / "supply.lock.json").read_text())
    (digest,) = [row["sha256"] for row in lock["packages"]["x86_64"] if row["name"] == "tzdata"]
    deb = lab.cache / "tower" / "vault" / "sha256" / digest[:2] / digest
    data, time_ns = bytearray(deb.read_bytes()), deb.stat().st_mtime_ns
    data[len(data) // 2] ^= 1
    replaced(deb, bytes(data), time_ns + 1)
    said = lab.doit(repository, status=FETCH_ERROR, env=NO_NETWORK)
    assert "cannot be reached" in said
    assert "hint:" in said
    assert not lab.artifacts("v3.23/main/x86_64/*.apk")
