# SPDX-License-Identifier: Apache-2.0
"""The origin of each package of an image: `alpine 3.23.6`, `debian trixie`, or `ours`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tower.base.regular import open_regular

from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import NOARCH
from pipeline.base.canonical import Digest
from pipeline.plan.nodes import ChannelNode, Image, Plan
from pipeline.store.artifact import Artifact

OURS: Final = "ours"
"""Packages that a stage of this checkout packed, or that the lab packed from files of this checkout alone."""
_OF_THE_RELEASE: Final = ("alpine-release", "alpine-base")
"""Packages whose version is that of Alpine's release, the most reliable first."""


def is_package(path: str, arch: str) -> bool:
    """Tell whether an output is a package in a repository of `arch`, or for all: its folder has the name of the architecture."""
    folder, _, name = path.rpartition("/")
    return name.endswith(".apk") and folder.rpartition("/")[2] in (arch, NOARCH)


def origins_of(
    plan: Plan, image: Image, artifacts: Mapping[str, Artifact], packages: Collection[Digest], versions: Mapping[str, str]
) -> dict[Digest, str]:
    """Return the origin of each of an image's `packages`, by the SHA-256 of their files.

    `artifacts` are the image's inputs, by the names of their nodes; `versions` are those of the packages, by their names.
    Raises FormatError if a package of the lab's mirror cannot be read.
    """
    mirror = plan.channel.settings.get("mirror")
    alpine = f"alpine {_release(versions) or plan.channel.branch.removeprefix('v')}"
    found: dict[Digest, str] = {}
    for name, artifact in artifacts.items():
        of_channel = isinstance(plan.nodes[name], ChannelNode)
        for path, record in artifact.outputs.items():
            # A repository has more packages than an image, and each takes time to read.
            if record.sha256 not in packages or not is_package(path, image.arch):
                continue
            if not of_channel:
                # A stage may pass on a package of the channel: it remains the channel's.
                found.setdefault(record.sha256, OURS)
            elif mirror is None:
                found[record.sha256] = alpine
            else:
                found[record.sha256] = _made_of(artifact.file(path), alpine, f"debian {mirror['suite']}")
    return found


def _release(versions: Mapping[str, str]) -> str:
    """Return Alpine's release as in its own packages: `3.23.6`; "" if the image has none of them."""
    version = next((versions[name] for name in _OF_THE_RELEASE if name in versions), "")
    return re.sub(r"-r\d+$", "", version)


def _made_of(package: Path, alpine: str, debian: str) -> str:
    """Return what a package of the lab was made from, by its field `commit`.

    Alpine's packages have the commit of aports there; those made from Debian's have Debian's version in it.
    """
    with open_regular(package) as stream:
        commit = read_package(stream, None, name=package.name).info.commit
    if re.fullmatch(r"[0-9a-f]{40}", commit):
        return alpine
    return debian if commit else OURS
