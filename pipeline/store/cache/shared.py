# SPDX-License-Identifier: Apache-2.0
"""Push artifacts into the shared cache, and pull them from it instead of building them.

A build never fails because of the cache: an artifact that is missing, or that no trusted key signed, is built. If the
registry is down or refuses, that is reported once, and the rest of the run does without it.
"""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tower.base.regular import open_regular, read_regular

from pipeline.base.canonical import Digest, JsonValue, digest_bytes
from pipeline.base.errors import VerifyError
from pipeline.store.artifact import RECORD, FileRecord
from pipeline.store.cache.oci import AbsentError, Registry, UnavailableError
from pipeline.store.cache.signed_record import Vouched, bring, manifest_of, sign, tag_of

if TYPE_CHECKING:
    from tower.image.minisign import PublicKey

    from pipeline.store.store import Artifact, Work
    from pipeline.supply.minisign import SecretKey


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of pushing one artifact."""

    blobs: int
    size: int
    fresh: bool
    """Whether the registry did not have it yet."""


class SharedCache:
    """A shared cache to pull from: only artifacts that one of `trusted` signed. Safe to share between threads."""

    def __init__(self, registry: Registry, trusted: tuple[PublicKey, ...], say: Callable[[str], None]) -> None:
        self.registry = registry
        self.trusted = trusted
        self._say = say
        self._off = False
        self._guard = threading.Lock()

    def pull(self, name: str, document: JsonValue, work: Work) -> Artifact | None:
        """Fill and commit `work` from the cache. Returns None if it has to be built; `work` is empty then.

        Reports an artifact that cannot be used, with the reason.
        """
        for signer in self.trusted:
            if self._off:
                return None
            try:
                return self._pull(signer, document, work)
            except UnavailableError as error:
                self._turn_off(error.message)
            except VerifyError as error:
                self._say(f"cache {self.registry.place}: {name} {work.key[:12]} is not used: {error.message}")
            except AbsentError:
                pass
            _empty(work.path)
        return None

    def _pull(self, signer: PublicKey, document: JsonValue, work: Work) -> Artifact:
        vouched = bring(self.registry, work.key, document, signer)
        try:
            self._bring_files(vouched, work.path)
        except AbsentError as error:
            raise VerifyError(f"the registry lacks one of its files ({error.message})") from error
        return work.commit(vouched.seconds, vouched.outputs, pulled=f"{self.registry.place} {vouched.signer}")

    def _bring_files(self, vouched: Vouched, folder: Path) -> None:
        """Download all files of a record; a content that several files share is downloaded once."""
        have: dict[Digest, Path] = {}
        for name, row in vouched.outputs.items():
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise VerifyError(f"{name}: lies below a file") from error
            if path.exists():
                raise VerifyError(f"{name}: is a file and a folder")
            if not row.size:
                _make_empty(path, row)
            elif row.sha256 in have:
                shutil.copyfile(have[row.sha256], path)
            else:
                self.registry.download(row.sha256, row.size, path)
                have[row.sha256] = path
            path.chmod(0o755 if row.executable else 0o644)

    def _turn_off(self, reason: str) -> None:
        with self._guard:
            if not self._off:
                self._off = True
                self._say(f"cache {self.registry.place}: {reason}; the run continues without it")


def push(registry: Registry, artifact: Artifact, secret: SecretKey) -> Pushed:
    """Sign the record of a verified artifact, and upload what the registry lacks.

    The manifest comes last, so that an interrupted upload stays invisible. Raises UnavailableError.
    """
    record = read_regular(artifact.path.parent / RECORD)
    signature = sign(record, artifact.key, secret)
    manifest = manifest_of(record, signature, artifact.outputs)
    tag = tag_of(artifact.key, secret.public_key.name)
    blobs = size = 0
    for name in {row.sha256: name for name, row in artifact.outputs.items() if row.size}.values():
        row = artifact.outputs[name]
        if not registry.has(row.sha256):
            with open_regular(artifact.file(name)) as source:
                registry.upload(row.sha256, source)
            blobs, size = blobs + 1, size + row.size
    for data in (record, signature):
        if not registry.has(digest_bytes(data)):
            registry.upload(digest_bytes(data), io.BytesIO(data))
    fresh = bool(blobs) or _present(registry, tag) != manifest
    if fresh:
        registry.tag(tag, manifest)
    return Pushed(blobs, size, fresh)


def _present(registry: Registry, tag: str) -> bytes:
    try:
        return registry.manifest(tag)
    except (AbsentError, VerifyError):
        return b""


def _make_empty(path: Path, row: FileRecord) -> None:
    if row.sha256 != digest_bytes(b""):
        raise VerifyError(f"{path.name}: is empty, but its sha256 is not that of an empty file")
    path.touch()


def _empty(folder: Path) -> None:
    """Remove the files of a failed pull."""
    shutil.rmtree(folder)
    folder.mkdir()
