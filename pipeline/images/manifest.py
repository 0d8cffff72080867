# SPDX-License-Identifier: Apache-2.0
"""The manifest of a finished image: its components, for people and programs; equal bytes from every build.

`<image>.manifest.json` names every package with version, origin, apk's checksum (SHA-1 of its control) and the
SHA-256 of its file, every stage with key and outputs, and the sizes. It holds no time, user or path of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.errors import StageError
from pipeline.images.origins import is_package, origins_of
from pipeline.plan.nodes import ChannelNode, Image, Plan, StageNode
from pipeline.store.artifact import Artifact, FileRecord, outputs_json

SCHEMA = 2
"""The manifest's schema; a published image with another schema gets a new manifest."""
PACKAGES = "packages.json"
"""The output of a stage that lists the packages it installed or put onto a medium."""

_FIELDS = ("name", "version", "arch", "checksum")


@dataclass(frozen=True, slots=True)
class ManifestInput:
    """What the manifest of an image is written from; all of the image's stages are built."""

    image: Image
    plan: Plan
    artifacts: Mapping[str, Artifact]
    """Of all nodes that the image is made of, by the names of the nodes."""
    lock: Digest
    builder: Digest
    """The key of the builder that the image's stages ran in."""


def made_of(image: Image, plan: Plan, keys: Mapping[str, Digest], lock: Digest) -> Digest:
    """Return the digest of what a manifest depends on: its schema, and the `keys` of all nodes behind the image."""
    return digest_json([SCHEMA, dict(keys), lock, image.output, plan.version])


def manifest_of(given: ManifestInput, files: Mapping[str, FileRecord]) -> dict[str, JsonValue]:
    """Return the manifest of an image; `files` are the finished files by their names. Raises StageError, FormatError."""
    image, plan, artifacts = given.image, given.plan, given.artifacts
    channel = plan.channel
    stages: dict[str, JsonValue] = {
        name: {"key": artifact.key, "outputs": outputs_json(artifact.outputs)}
        for name, artifact in sorted(artifacts.items())
        if isinstance(plan.nodes[name], StageNode)
    }
    parts: dict[str, JsonValue] = {
        name: {"key": artifact.key, "content": artifact.content, "size": artifact.size}
        for name, artifact in sorted(artifacts.items())
        if not isinstance(plan.nodes[name], StageNode)
    }
    return {
        "schema": SCHEMA,
        "image": image.output,
        "recipe": image.recipe,
        "target": image.target,
        "architecture": image.arch,
        "version": plan.version,
        "channel": {"name": channel.name, "branch": channel.branch, "epoch": channel.epoch, "releasable": channel.releasable},
        "lock": given.lock,
        "builder": given.builder,
        "files": outputs_json(files),
        "packages": _packages(given),
        "stages": stages,
        "channel_parts": parts,
    }


def _packages(given: ManifestInput) -> list[JsonValue]:
    """Return the packages that the stages of the image's own recipe and target installed, each once, sorted.

    Each has its origin, and the SHA-256 of its file in the repositories of the image's architecture. Raises StageError if
    there is none.
    """
    image, plan, artifacts = given.image, given.plan, given.artifacts
    rows: dict[tuple[str, ...], Digest] = {}
    files = _package_files(image, artifacts)
    found = False
    for name, artifact in artifacts.items():
        node = plan.nodes[name]
        own = isinstance(node, StageNode) and node.recipe == image.recipe and node.target in ("", image.target)
        if own and PACKAGES in artifact.outputs:
            found = True
            for row in read_packages(artifact.file(PACKAGES), name):
                file = f"{row['name']}-{row['version']}.apk"
                if len(files.get(file, ())) != 1:
                    many = "two of its repositories have it with different contents" if file in files else "no repository has it"
                    raise StageError(f"{name}: lists {file}, but {many}", hint="fix the stage, or give the package another name")
                rows[tuple(str(row[field]) for field in _FIELDS)] = next(iter(files[file]))
    if not found and any(isinstance(node, ChannelNode) and node.what == "repository" for node in plan.needs([image.final])):
        raise StageError(
            f"{image.output}: no stage of recipe {image.recipe} lists its packages", hint=f"one of them must write {PACKAGES}"
        )
    origins = origins_of(plan, image, artifacts, set(rows.values()), {row[0]: row[1] for row in rows})
    return [{**dict(zip(_FIELDS, row, strict=True)), "sha256": rows[row], "origin": origins[rows[row]]} for row in sorted(rows)]


def _package_files(image: Image, artifacts: Mapping[str, Artifact]) -> dict[str, set[Digest]]:
    """Return the packages in the repositories that the image was made from: file name -> SHA-256."""
    found: dict[str, set[Digest]] = {}
    for artifact in artifacts.values():
        for path, record in artifact.outputs.items():
            if is_package(path, image.arch):
                found.setdefault(path.rpartition("/")[2], set()).add(record.sha256)
    return found


def read_packages(path: Path, stage: str) -> list[dict[str, JsonValue]]:
    """Read a stage's list of packages. Raises StageError if it is not valid."""
    try:
        rows: Any = parse_json(read_regular(path))
        return [{field: str(row[field]) for field in _FIELDS} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        wanted = ", ".join(_FIELDS)
        raise StageError(f"{stage}: its {PACKAGES} is not a list of objects with {wanted}: {error!r}") from error
