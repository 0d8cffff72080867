# SPDX-License-Identifier: Apache-2.0
"""The checks before a release: the channel, the checkout, the version and every image. All faults are reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import proc
from pipeline.base.canonical import Digest, digest_file
from pipeline.base.errors import ReleaseError, ToolError
from pipeline.base.paths import Paths
from pipeline.images import boot_record
from pipeline.images.boot_record import BOOTS
from pipeline.images.publish import Published
from pipeline.plan.nodes import Image, Plan
from pipeline.supply.lock import Lock

_GIT_SECONDS = 60
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReleaseInput:
    """What a release, or the statement about a rebuild, is made of, before it is checked."""

    plan: Plan
    paths: Paths
    lock: Callable[[], Lock]
    """Returns the channel's lock. Raises LockError if there is none that fits."""
    published: Mapping[str, Published]
    """The images that are in their place, by their names."""
    pulled: Mapping[str, str]
    """The stages that were pulled from a shared cache, by the names of their nodes: where from."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished image in its place."""

    image: Image
    path: Path
    digest: Digest
    files: Mapping[str, Digest]
    """The contents of the image and of the files beside it, by name."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The parts of a release."""

    version: str
    channel: str
    commit: str
    images: tuple[Finished, ...]
    lock: Lock


def check_release(given: ReleaseInput, version: str) -> Ready:
    """Return the parts of a release. Raises a ReleaseError that lists every reason against it."""
    plan = given.plan
    faults: list[str] = []
    if not plan.channel.releasable:
        faults.append(f"channel {plan.channel.name}: its images may not be released")
    if version != plan.version:
        faults.append(f"version={version}: pyproject.toml says {plan.version}")
    commit = _asked(faults, given.paths)
    images = finished_images(given, faults)
    faults.extend(_pulled_faults(given.pulled))
    for one in images:
        faults.extend(_boot_faults(given.paths, one))
    if faults:
        count = f"{len(faults)} reasons" if len(faults) > 1 else "a reason"
        raise ReleaseError(
            "\n  ".join([f"release {version}: refused for {count}", *faults]), hint="docs/release.md says what is needed"
        )
    return Ready(version, plan.channel.name, commit, images, given.lock())


def check_rebuild(given: ReleaseInput) -> Ready:
    """Return the parts of a rebuild that may be attested: a clean checkout and all of its images. Raises ReleaseError."""
    faults: list[str] = []
    commit = _asked(faults, given.paths)
    images = finished_images(given, faults)
    faults.extend(_pulled_faults(given.pulled))
    if faults:
        raise ReleaseError("\n  ".join(["attest: refused", *faults]), hint="build the commit of the release: ./ci/doit")
    return Ready(given.plan.version, given.plan.channel.name, commit, images, given.lock())


def _asked(faults: list[str], paths: Paths) -> str:
    try:
        commit, changed = checkout_state(paths.checkout)
    except ToolError as error:
        faults.append(f"checkout: git cannot tell its state: {error.message.splitlines()[-1].strip()}")
        return ""
    if changed:
        shown = ", ".join(changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        faults.append(f"checkout: differs from its commit in {shown}")
    return commit


def checkout_state(checkout: Path) -> tuple[str, list[str]]:
    """Return the commit that is checked out, and the paths that differ from it. Raises ToolError if it is no checkout."""
    git = ("git", "-C", str(checkout))
    top = proc.run((*git, "rev-parse", "--show-toplevel", "HEAD"), timeout=_GIT_SECONDS).stdout.decode().splitlines()
    if Path(top[0]).resolve() != checkout.resolve():
        raise ToolError(f"{checkout}: is not the top of a git checkout")
    status = proc.run((*git, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"), timeout=_GIT_SECONDS)
    return top[1], sorted(row[3:] for row in status.stdout.decode(errors="replace").split("\0") if row)


def finished_images(given: ReleaseInput, faults: list[str]) -> tuple[Finished, ...]:
    """Return the finished images of all recipes and targets; add those that are missing to `faults`."""
    found: list[Finished] = []
    for image in given.plan.images:
        there = given.published.get(image.output)
        if there is None:
            faults.append(f"{image.output}: is not built from the present checkout; run: ./ci/doit {image.recipe}")
            continue
        digest = digest_file(there.path)
        # The store is asked as well: the note of publishing only compares sizes and times of files.
        if digest not in {record.sha256 for record in there.built.artifact.outputs.values()}:
            faults.append(f"{image.output}: differs from the output of its last stage; run: ./ci/doit {image.recipe}")
        found.append(Finished(image, there.path, digest, there.files))
    return tuple(found)


def _pulled_faults(pulled: Mapping[str, str]) -> list[str]:
    """List the stages that were pulled from a shared cache: who releases or attests claims to have built them."""
    return [
        f"{name}: was pulled from {origin.partition(' ')[0]}, not built here; "
        f"run: ./ci/doit clean {name}, then build without cache="
        for name, origin in pulled.items()
    ]


def _boot_faults(paths: Paths, one: Finished) -> list[str]:
    boots = boot_record.read(paths, one.digest)
    faults: list[str] = []
    wanted = [name for name, place in BOOTS.items() if place == (one.image.recipe, one.image.target)]
    if not wanted:
        faults.append(f"{one.image.output}: has no boot test")
    for name in wanted:
        if name not in boots:
            faults.append(f"{one.image.output}: was not booted yet; run: ./ci/doit boot:{name}")
        elif not boots[name]:
            faults.append(f"{one.image.output}: did not come up in its last boot test; run: ./ci/doit boot:{name}")
    return faults
