# SPDX-License-Identifier: Apache-2.0
"""Small trees that stages get: overlays, a Python project, wheels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.stages.bench import Source

DEVICE_WHEEL = "Odd.Name-1.0-py3-none-any.whl"

_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "tower"
version = "1.2.3"
requires-python = ">=3.11"

[tool.setuptools]
packages = ["tower"]
package-dir = { tower = "runtime" }
package-data = { tower = ["words.txt"] }
"""

_OWNERS = """\
[[rules]]
path = "etc/**"
mode = "0644"

[[rules]]
path = "usr/bin/*"
mode = "0755"

[[rules]]
path = "usr/share/**"
mode = "0644"

[[rules]]
path = "etc/shut"
mode = "0640"
group = "shadow"
"""


def write_tree(folder: Path, files: Mapping[str, str]) -> Path:
    """Files by their names below `folder`, which is made."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def tiny_runtime(folder: Path) -> dict[str, Source]:
    """The sources of the stage wheel: a project of two modules."""
    write_tree(
        folder / "project",
        {
            "pyproject.toml": _PROJECT,
            "runtime/__init__.py": "",
            "runtime/cli.py": "WORDS = 1\n",
            "runtime/words.txt": "words\n",
        },
    )
    return {"pyproject.toml": folder / "project/pyproject.toml", "runtime": folder / "project/runtime"}


def tiny_overlays(folder: Path, name: str) -> dict[str, Source]:
    """The sources of the stages package-*: two trees, the second over the first, and the table of owners."""
    common = write_tree(
        folder / "common",
        {
            "etc/issue": "TowerOS ${version}\n", "etc/both": "common\n", "usr/bin/program": "#!/bin/sh\n",
            "etc/an odd näme": "odd\n",
            "etc/backup~": "not packed\n",
        },
    )  # fmt: skip
    own = write_tree(folder / "own", {"etc/both": f"{name}\n", "etc/shut": "secret\n"})
    (own / "etc/runlevels").mkdir()
    (own / "etc/runlevels/service").symlink_to("/etc/init.d/service")
    (folder / "owners.toml").write_text(_OWNERS)
    return {"overlays/common": common, f"overlays/{name}": own, "overlays/owners.toml": folder / "owners.toml"}


def wheel_of(path: Path, files: Mapping[str, str]) -> None:
    """A wheel that Python can run as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
