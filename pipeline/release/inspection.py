# SPDX-License-Identifier: Apache-2.0
"""Check the folder of a release with public keys alone: every byte in it is signed, and its files agree with each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tower.base.errors import TowerError
from tower.base.jsontext import parse_json
from tower.base.regular import read_regular
from tower.image.minisign import SUFFIX, PublicKey, parse_signature, read_small, signer_of, verify_file
from tower.image.verify import (
    SUMS,
    ImageError,
    check_block_map,
    check_sum,
    comment_of,
    parse_sums,
    read_comment,
)

from pipeline.base.errors import VerifyError
from pipeline.release.folder import ATTESTATIONS, BLOCK_MAP, MANIFEST, PROVENANCE, REBUILD, SBOM
from pipeline.release.image_digest import canonical_digest
from pipeline.release.provenance import subjects_of
from pipeline.release.sbom import CHECKSUM, ORIGIN

_MOST_ATTESTATIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class Inspected:
    """The result of checking a good release."""

    version: str
    channel: str
    signer: PublicKey
    images: tuple[str, ...]
    rebuilders: tuple[PublicKey, ...]
    """The rebuilders, of those asked about, who attested that a rebuild gives the same."""


def inspect_release(folder: Path, keys: Iterable[PublicKey], rebuilders: Sequence[PublicKey] = (), need: int = 0) -> Inspected:
    """Check all of a release; at least `need` of the `rebuilders` must have attested it. Raises VerifyError naming the fault."""
    try:
        return _inspect(folder, tuple(keys), rebuilders, need)
    except TowerError as error:
        raise VerifyError(error.message, hint="do not use this release") from error
    except OSError as error:
        raise VerifyError(f"{error.filename or folder}: {error.strerror}", hint="do not use this release") from error


def _inspect(folder: Path, keys: tuple[PublicKey, ...], rebuilders: Sequence[PublicKey], need: int) -> Inspected:
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder")
    sums_path = folder / SUMS
    signer, signature = signer_of(sums_path, keys)
    said = read_comment(signature.trusted_comment, str(sums_path))
    if said["file"] != SUMS:
        raise ImageError(f"{sums_path}: its signature is for a file with another name: {said['file']}")
    sums = parse_sums(read_small(sums_path), str(sums_path))
    images = tuple(name.removesuffix(MANIFEST) for name in sums if name.endswith(MANIFEST))
    _check_names(folder, sums, images)
    for name, expected in sums.items():
        check_sum(folder / name, expected)
    for name in (*images, REBUILD):
        own = verify_file(folder / name, (signer,))
        if own.trusted_comment != comment_of(name, said["version"], said["channel"]):
            raise ImageError(f"{folder / name}: its signature says {own.trusted_comment!r}, which is not this release")
    statement = _json(folder / REBUILD)
    for name in images:
        _check_image(folder, name, said, statement, sums)
    _check_statement(folder, statement, said, images)
    attested = attested_by(folder, rebuilders)
    if len(attested) < need:
        have = ", ".join(key.name for key in attested) or "nobody"
        raise ImageError(f"{folder}: {len(attested)} of the {need} needed rebuilders attested it ({have})")
    return Inspected(said["version"], said["channel"], signer, images, attested)


def _check_names(folder: Path, sums: Mapping[str, str], images: tuple[str, ...]) -> None:
    """Check that no file is missing, none is unsigned, and none is a link. Raises VerifyError."""
    if not images:
        raise ImageError(f"{folder / SUMS}: names no image")
    wanted = {REBUILD} | {f"{name}{ending}" for name in images for ending in ("", BLOCK_MAP, MANIFEST, SBOM, PROVENANCE)}
    if wanted != set(sums):
        odd = sorted(wanted ^ set(sums))[0]
        raise ImageError(f"{folder / SUMS}: {odd} is {'missing' if odd in wanted else 'not part of a release'}")
    allowed = {*sums, SUMS, *(f"{name}{SUFFIX}" for name in (*images, REBUILD, SUMS))}
    present = {path.name: path for path in folder.iterdir()}
    for name in sorted(allowed ^ set(present)):
        if name in allowed:
            raise ImageError(f"{folder / name}: is missing")
        if name != ATTESTATIONS:
            raise ImageError(f"{folder / name}: is not in {SUMS}: nobody signed it")
    for name, path in present.items():
        if path.is_symlink() or not (path.is_dir() if name == ATTESTATIONS else path.is_file()):
            raise ImageError(f"{path}: is not a plain {'folder' if name == ATTESTATIONS else 'file'}")


def _check_image(folder: Path, name: str, said: Mapping[str, str], statement: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Check that an image agrees with its sum, manifest, block map, SBOM and provenance, and these with each other."""
    manifest, sbom, provenance = (_json(folder / f"{name}{ending}") for ending in (MANIFEST, SBOM, PROVENANCE))
    digests = {file: sums[file] for file in (name, f"{name}{BLOCK_MAP}")}
    try:
        build = provenance["predicate"]["buildDefinition"]
        wanted: dict[str, tuple[object, object]] = {
            "image in its manifest": (manifest["image"], name),
            "version in its manifest": (manifest["version"], said["version"]),
            "channel in its manifest": (manifest["channel"]["name"], said["channel"]),
            "releasable in its manifest": (manifest["channel"]["releasable"], True),
            "files in its manifest": ({file: row["sha256"] for file, row in manifest["files"].items()}, digests),
            "subjects of its provenance": (subjects_of(provenance), digests),
            "stage keys in its provenance": (build["internalParameters"]["stages"], _keys(manifest)),
            "lock in its provenance": (build["internalParameters"]["lock"], manifest["lock"]),
            "builder in its provenance": (_builder(provenance), manifest["builder"]),
            "commit in its provenance": (_commit(build), statement["predicate"]["commit"]),
            "lock in the statement for rebuilders": (statement["predicate"]["lock"], manifest["lock"]),
            "digest in its SBOM": (sbom["metadata"]["component"]["hashes"][0]["content"], sums[name]),
            "packages in its SBOM": (
                _components(sbom),
                sorted(
                    (row["name"], row["version"], row["checksum"], row["origin"], row["sha256"]) for row in manifest["packages"]
                ),
            ),
        }
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise ImageError(f"{folder / name}: its manifest, SBOM or provenance lacks {error}") from error
    for what, (got, expected) in wanted.items():
        if got != expected:
            raise ImageError(f"{folder / name}: {what}: {_short(got)}, expected {_short(expected)}")
    check_block_map(folder / name, folder / f"{name}{BLOCK_MAP}")


def _check_statement(folder: Path, statement: Mapping[str, Any], said: Mapping[str, str], images: tuple[str, ...]) -> None:
    """Check that the statement for rebuilders is about this release, and has the digests of its images."""
    try:
        subjects, predicate = subjects_of(statement), statement["predicate"]
        about = (predicate["version"], predicate["channel"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ImageError(f"{folder / REBUILD}: lacks {error}") from error
    if about != (said["version"], said["channel"]) or set(subjects) != set(images):
        raise ImageError(f"{folder / REBUILD}: is not about this release")
    for name, expected in subjects.items():
        got = canonical_digest(folder / name)
        if got != expected:
            raise ImageError(f"{folder / name}: canonical digest {got}, {REBUILD} says {expected}")


def attested_by(folder: Path, rebuilders: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return the rebuilders, each once, who signed the statement. Raises VerifyError for a bad signature of theirs."""
    place = folder / ATTESTATIONS
    known = {key.key_id: key for key in rebuilders}
    found: dict[bytes, PublicKey] = {}
    paths = sorted(place.iterdir()) if place.is_dir() else []
    if len(paths) > _MOST_ATTESTATIONS:
        raise ImageError(f"{place}: more than {_MOST_ATTESTATIONS} attestations")
    for path in paths:
        if path.is_symlink() or not path.is_file() or path.suffix != SUFFIX:
            raise ImageError(f"{path}: is not an attestation")
        signer = parse_signature(read_small(path), str(path)).key_id
        if signer in known:
            signature = verify_file(folder / REBUILD, (known[signer],), signature=path)
            if not signature.trusted_comment.startswith("rebuilt:"):
                raise ImageError(f"{path}: says {signature.trusted_comment!r}, which is not an attestation")
            # Compare the key itself: key numbers can be chosen, and one rebuilder must not count twice.
            found[known[signer].key] = known[signer]
    return tuple(found.values())


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = parse_json(read_regular(path))
    except ValueError as error:
        raise ImageError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    if not isinstance(data, dict):
        raise ImageError(f"{path}: not a JSON object")
    return data


def _keys(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {name: row["key"] for name, row in manifest["stages"].items()}


def _builder(provenance: Mapping[str, Any]) -> str:
    return str(provenance["predicate"]["runDetails"]["builder"]["id"]).rpartition(":")[2]


def _commit(build: Mapping[str, Any]) -> str:
    return str(build["resolvedDependencies"][0]["digest"]["gitCommit"])


def _components(sbom: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return name, version, apk's checksum, origin and SHA-256 of every package, sorted."""
    return sorted(
        (
            row["name"],
            row["version"],
            *(next(one["value"] for one in row["properties"] if one["name"] == wanted) for wanted in (CHECKSUM, ORIGIN)),
            row["hashes"][0]["content"],
        )
        for row in sbom.get("components", [])
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
