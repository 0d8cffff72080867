# SPDX-License-Identifier: Apache-2.0
"""The inputs of an image as in-toto statements: SLSA provenance, and the statement that rebuilders sign.

Both are canonical JSON without times, users or paths, so that a rebuild makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.base.canonical import JsonValue, canonical_json
from pipeline.supply.lock import Lock, LockedFile

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
REBUILD: Final = "urn:toweros:rebuild:v1"
BUILD_TYPE: Final = "urn:toweros:image-factory:v1"


def provenance_of(manifest: Mapping[str, Any], lock: Lock, commit: str) -> bytes:
    """Return SLSA provenance for an image and its block map, made from its manifest and the lock."""
    channel = manifest["channel"]
    external: dict[str, JsonValue] = {name: manifest[name] for name in ("architecture", "recipe", "target", "version")}
    external |= {"channel": channel["name"], "branch": channel["branch"]}
    internal: dict[str, JsonValue] = {
        "epoch": channel["epoch"],
        "lock": manifest["lock"],
        "stages": {name: row["key"] for name, row in manifest["stages"].items()},
        "channel": {name: row["content"] for name, row in manifest["channel_parts"].items()},
    }
    builder: dict[str, JsonValue] = {
        "id": f"urn:toweros:builder:sha256:{manifest['builder']}",
        "builderDependencies": _rows(lock.builder, "builder"),
    }
    return _statement(
        {name: row["sha256"] for name, row in manifest["files"].items()},
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": [{"name": "checkout", "digest": {"gitCommit": commit}}, *_inputs(lock, manifest)],
            },
            "runDetails": {"builder": builder},
        },
    )


def _inputs(lock: Lock, manifest: Mapping[str, Any]) -> list[JsonValue]:
    arch = str(manifest["architecture"])
    tables = {"indexes": lock.indexes.get(arch, ()), "packages": lock.packages.get(arch, ()), "wheels": lock.wheels.get(arch, ())}
    rows = [row for what, files in tables.items() for row in _rows(files, f"{what}/{arch}")]
    return [*rows, *_rows(lock.media, "media")]


def _rows(files: Sequence[LockedFile], where: str) -> list[JsonValue]:
    rows: list[JsonValue] = []
    for file in files:
        row: dict[str, JsonValue] = {"name": f"{where}/{file.name}", "digest": {"sha256": file.sha256}}
        row["annotations"] = {
            "version": file.version,
            "size": file.size,
            **({"location": file.location} if file.location else {}),
        }
        rows.append(row)
    return rows


def rebuild_statement(canonical: Mapping[str, str], *, version: str, channel: str, commit: str, lock: str) -> bytes:
    """Return the statement that rebuilders sign: the canonical digest of each image, and its inputs."""
    return _statement(canonical, REBUILD, {"version": version, "channel": channel, "commit": commit, "lock": lock})


def _statement(subjects: Mapping[str, str], kind: str, predicate: dict[str, JsonValue]) -> bytes:
    rows: list[JsonValue] = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
    return canonical_json({"_type": STATEMENT, "subject": rows, "predicateType": kind, "predicate": predicate}) + b"\n"


def subjects_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the subjects of a statement: name -> SHA-256. Raises KeyError or TypeError if it is no statement."""
    return {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
