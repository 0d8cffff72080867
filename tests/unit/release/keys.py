# SPDX-License-Identifier: Apache-2.0
"""A small checkout of a channel that may be released, with its images built, booted and signed, for the tests of releases."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.base.canonical import digest_file
from pipeline.base.progress import Screen
from pipeline.build.factory import Factory
from pipeline.cli import inputs
from pipeline.cli.inputs import release_input
from pipeline.images import blockmap, publish
from pipeline.images.boot_record import _note
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_plan
from pipeline.release.checks import check_release
from pipeline.release.folder import write_release
from pipeline.supply.minisign import SecretKey
from tests.unit.small import CHANNEL, Driver, make_checkout, put, write

PACKAGES = json.dumps([{"name": name, "version": "1", "arch": "x", "checksum": f"Q1{name}"} for name in ("b", "a")])
PLAIN = Settings(channel="stable", compress="none")
LITTLE = 1 << 24
"""Memory of scrypt in the tests: the least that minisign takes."""


def git(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    subprocess.run(["git", "-C", folder, *name, *words], check=True, capture_output=True)


def opened(root: Path, settings: Settings = PLAIN, channel: Mapping[str, str] | None = None) -> Factory:
    """A committed checkout whose images are built and in their place."""
    paths = make_checkout(root)
    stable = CHANNEL.replace("releasable = false", "releasable = true")
    write(root, {"pipeline/channels/stable.toml": stable, ".gitignore": "/build/\n/dist/\n", **(channel or {})})
    factory = Factory(load_plan(paths, settings), paths, Screen(quiet=True))
    factory.__dict__["driver"] = Driver()
    factory.make_lock(again=True)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    for arch in ("x86_64", "aarch64"):
        factory.need_by_name(f"channel:repository:{arch}")
    factory.need_by_name("channel:keys")
    for image in factory.plan.images:
        put(factory, f"stage:root:{image.target}", {"root.tar": f"root {image.target}"})
        put(factory, f"stage:pack:{image.target}", made(root / "build" / "disk", image.target))
        inputs.publish_image(factory, image)
    return factory


def made(scratch: Path, target: str) -> dict[str, str]:
    """The outputs of the last stage: an image with empty blocks, its map, its packages."""
    text = "\0" * 8192 + f"disk {target}" + "\0" * 9000 + "end"
    scratch.write_text(text)
    return {"image.img": text, "image.bmap": blockmap.dump(blockmap.read_image(scratch)).decode(), "packages.json": PACKAGES}


def boot_all(factory: Factory, *, passed: bool = True) -> None:
    """Note that all images came up, or did not."""
    for image in factory.plan.images:
        path = publish.dist_folder(factory.paths) / image.output
        _note(factory.paths, digest_file(path), f"host-{image.target}", path, passed=passed)


def released(factory: Factory, secret: SecretKey) -> Path:
    """The folder of a release of it."""
    boot_all(factory)
    return write_release(factory.paths, check_release(release_input(factory), factory.plan.version), secret)
