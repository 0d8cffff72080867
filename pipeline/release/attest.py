# SPDX-License-Identifier: Apache-2.0
"""Attest a rebuild: who built the same commit and got the same images signs the release's statement about them.

The signature goes to `attestations/` of the release, one file for each key; `verify:release` counts those of trusted keys.
"""

from __future__ import annotations

from pathlib import Path

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular
from tower.image.minisign import SUFFIX

from pipeline.base.errors import ReleaseError, VerifyError
from pipeline.base.files import write_file
from pipeline.release.checks import Ready
from pipeline.release.folder import ATTESTATIONS, REBUILD
from pipeline.release.image_digest import canonical_digest
from pipeline.release.provenance import rebuild_statement, subjects_of
from pipeline.supply.minisign import SecretKey


def own_statement(ready: Ready) -> bytes:
    """Return the statement about the images of this checkout's build."""
    canonical = {one.image.output: str(canonical_digest(one.path)) for one in ready.images}
    return rebuild_statement(canonical, version=ready.version, channel=ready.channel, commit=ready.commit, lock=ready.lock.digest)


def attest(folder: Path, own: bytes, secret: SecretKey) -> Path:
    """Sign the statement of the release in `folder`, if our own build's is equal byte for byte; return the attestation's path.

    Raises VerifyError naming what differs.
    """
    path = folder / REBUILD
    if not path.is_file():
        raise ReleaseError(f"{folder}: has no {REBUILD}, so it is not the folder of a release", hint="dir= is that folder")
    theirs = read_regular(path)
    if theirs != own:
        raise VerifyError(f"{path}: {_difference(theirs, own)}", hint="nothing was signed")
    target = folder / ATTESTATIONS / f"{secret.public_key.name}{SUFFIX}"
    target.parent.mkdir(exist_ok=True)
    write_file(target, secret.sign_bytes(own, f"rebuilt:{parse_json(own)['predicate']['commit']}"))
    return target


def _difference(theirs: bytes, own: bytes) -> str:
    try:
        released, mine = parse_json(theirs), parse_json(own)
        for name, value in mine["predicate"].items():
            if released["predicate"].get(name) != value:
                return f"{name} is {released['predicate'].get(name)}, here it is {value}"
        before, now = subjects_of(released), subjects_of(mine)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                return f"{name} has canonical digest {before.get(name)}, our own build has {now.get(name)}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"not a statement: {error!r}"
    return "differs from the statement of our own build"
