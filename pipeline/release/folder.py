# SPDX-License-Identifier: Apache-2.0
"""Write the folder of a release: the images and the files beside them, what they were made from, sums and signatures.

Everything but the signatures is the same in every rebuild of a commit. The folder appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular
from tower.image.minisign import SUFFIX
from tower.image.verify import SUMS, comment_of, dump_sums

from pipeline.base.canonical import digest_file
from pipeline.base.errors import ReleaseError, StoreError
from pipeline.base.paths import Paths
from pipeline.images import publish
from pipeline.release.checks import Finished, Ready
from pipeline.release.image_digest import canonical_digest
from pipeline.release.provenance import provenance_of, rebuild_statement
from pipeline.release.sbom import sbom_of
from pipeline.supply.minisign import SecretKey

if TYPE_CHECKING:
    from pipeline.supply.lock import Lock

REBUILD: Final = "rebuild.json"
"""The statement about canonical digests, which rebuilders sign as well."""
SBOM: Final = ".cdx.json"
PROVENANCE: Final = ".provenance.json"
MANIFEST: Final = ".manifest.json"
BLOCK_MAP: Final = ".bmap"
ATTESTATIONS: Final = "attestations"
_AGAIN: Final = "build it again: ./ci/doit"


def folder_of(paths: Paths, channel: str, version: str) -> Path:
    """Return the folder of the release of this version of a channel, whether it exists or not."""
    return publish.dist_folder(paths) / f"toweros-{version}-{channel}"


def write_release(paths: Paths, ready: Ready, secret: SecretKey) -> Path:
    """Make the folder of a release and return it. Raises ReleaseError if it exists already, StoreError."""
    target = folder_of(paths, ready.channel, ready.version)
    if target.exists():
        raise ReleaseError(
            f"{target}: exists already; a release is never written again", hint="raise the version in pyproject.toml"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        work = Path(scratch) / target.name
        work.mkdir()
        try:
            _fill(work, ready, secret)
            for path in work.iterdir():
                _settle(path)
            _sync(work)
        except OSError as error:
            raise StoreError(
                f"{error.filename or target}: {error.strerror}", hint="make room, or look at the permissions"
            ) from error
        try:
            work.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise ReleaseError(
                f"{target}: was made by another process meanwhile", hint="look at it; this one was thrown away"
            ) from error
        _sync(target.parent)
    return target


def _fill(work: Path, ready: Ready, secret: SecretKey) -> None:
    lock = ready.lock
    canonical: dict[str, str] = {}
    for one in ready.images:
        _lay_image(work, one, lock, ready.commit)
        canonical[one.image.output] = canonical_digest(work / one.image.output)
    statement = rebuild_statement(canonical, version=ready.version, channel=ready.channel, commit=ready.commit, lock=lock.digest)
    (work / REBUILD).write_bytes(statement)
    sums = {path.name: str(digest_file(path)) for path in work.iterdir()}
    (work / SUMS).write_bytes(dump_sums(sums))
    for name in [one.image.output for one in ready.images] + [REBUILD, SUMS]:
        with (work / name).open("rb") as stream:
            signature = secret.sign(stream, comment_of(name, ready.version, ready.channel))
        (work / f"{name}{SUFFIX}").write_bytes(signature.dump())


def _lay_image(work: Path, one: Finished, lock: Lock, commit: str) -> None:
    """Copy an image with its block map and manifest, and write its SBOM and provenance. Raises ReleaseError."""
    name = one.image.output
    for ending in ("", BLOCK_MAP, MANIFEST):
        shutil.copyfile(one.path.with_name(name + ending), work / f"{name}{ending}")
        if digest_file(work / f"{name}{ending}") != one.files[f"{name}{ending}"]:
            # Another build may have replaced the files since they were checked.
            raise ReleaseError(f"{name}{ending}: was replaced while the release was made", hint="run the same command again")
    try:
        manifest: dict[str, Any] = parse_json(read_regular(work / f"{name}{MANIFEST}"))
        for file, row in manifest["files"].items():
            if digest_file(work / file) != row["sha256"]:
                raise ReleaseError(f"{file}: differs from its manifest", hint=_AGAIN)
        if manifest["lock"] != lock.digest:
            raise ReleaseError(f"{name}: was made from a lock other than the present one", hint=_AGAIN)
        bill, provenance = sbom_of(manifest), provenance_of(manifest, lock, commit)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{name}{MANIFEST}: is not a manifest: {error!r}", hint=_AGAIN) from error
    (work / f"{name}{SBOM}").write_bytes(bill)
    (work / f"{name}{PROVENANCE}").write_bytes(provenance)


def _settle(path: Path) -> None:
    path.chmod(0o644)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
