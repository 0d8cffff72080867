# SPDX-License-Identifier: Apache-2.0
"""Where each package of an image comes from: `alpine 3.23.6`, `debian trixie`, or `ours`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base.regular import open_regular

from pipeline.apk.format.package import read_package
from pipeline.base.canonical import Digest
from pipeline.plan.nodes import ChannelNode, Image
from pipeline.store.artifact import Artifact

if TYPE_CHECKING:
    from pipeline.build.factory import Factory

OURS: Final = "ours"
"""What a stage of this checkout packed, or what the lab packed of files of this checkout alone."""
_OF_THE_RELEASE: Final = ("alpine-release", "alpine-base")
"""Packages whose version is that of Alpine's release, the surest first."""


def is_package(path: str, arch: str) -> bool:
    """Whether an output is a package in a repository of `arch`: the repository's folder is called as its architecture."""
    folder, _, name = path.rpartition("/")
    return name.endswith(".apk") and folder.rpartition("/")[2] == arch


def origins_of(
    factory: Factory, image: Image, artifacts: Mapping[str, Artifact], packages: Collection[Digest], versions: Mapping[str, str]
) -> dict[Digest, str]:
    """The origin of each of an image's `packages`, which are named by the SHA-256 of their files, as in the result.

    `artifacts` are those behind the image, by the names of their nodes; `versions` are those of the packages, by their names.
    Raises FormatError if a package of the lab's mirror cannot be read.
    """
    mirror = factory.plan.channel.settings.get("mirror")
    alpine = f"alpine {_release(versions) or factory.plan.channel.branch.removeprefix('v')}"
    found: dict[Digest, str] = {}
    for name, artifact in artifacts.items():
        of_channel = isinstance(factory.plan.nodes[name], ChannelNode)
        for path, record in artifact.outputs.items():
            # A repository has more packages than an image, and each takes its time to read.
            if record.sha256 not in packages or not is_package(path, image.arch):
                continue
            if not of_channel:
                # A stage may hand on a package of the channel: it stays the channel's.
                found.setdefault(record.sha256, OURS)
            elif mirror is None:
                found[record.sha256] = alpine
            else:
                found[record.sha256] = _made_of(artifact.file(path), alpine, f"debian {mirror['suite']}")
    return found


def _release(versions: Mapping[str, str]) -> str:
    """Alpine's release as its own packages say it: `3.23.6`; empty if the image has none of them."""
    version = next((versions[name] for name in _OF_THE_RELEASE if name in versions), "")
    return re.sub(r"-r\d+$", "", version)


def _made_of(package: Path, alpine: str, debian: str) -> str:
    """What a package of the lab was made of, by its field `commit`.

    Alpine's packages keep the commit of aports there; those made of Debian's have Debian's version in it.
    """
    with open_regular(package) as stream:
        commit = read_package(stream, None, name=package.name).info.commit
    if re.fullmatch(r"[0-9a-f]{40}", commit):
        return alpine
    return debian if commit else OURS
