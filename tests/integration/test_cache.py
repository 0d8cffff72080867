# SPDX-License-Identifier: Apache-2.0
"""The shared cache against Debian's registry on this machine: push, pull, and every way in which it may be wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.base.canonical import Digest, digest_bytes, digest_json
from pipeline.store.artifact import RECORD, Artifact
from pipeline.store.cache.oci import Registry, RegistryPlace, UnavailableError
from pipeline.store.cache.shared import SharedCache, push
from pipeline.store.cache.signed_record import comment_of, manifest_of, sign, tag_of
from pipeline.store.store import Store
from pipeline.supply.minisign import SecretKey
from tests.integration.conftest import Tiny

_UP_SECONDS = 20
OURS = SecretKey.generate()
THEIRS = SecretKey.generate()
FILES = {"image": b"\0" * 3_000_000 + b"end", "docs/again": b"twice", "twice": b"twice", "empty": b"", "run": b"#!/bin/sh\n"}
REFUSED = 18
FETCH_ERROR = 12


@dataclass
class Served:
    """A registry that runs."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def place(self) -> RegistryPlace:
        return RegistryPlace.parse(f"127.0.0.1:{self.port}/towercache")

    @property
    def registry(self) -> Registry:
        return Registry(self.place)

    def blob(self, digest: Digest) -> Path:
        """Where the registry keeps a blob."""
        return self.folder / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"

    def put(self, record: bytes, signature: bytes, artifact: Artifact, tag: str) -> None:
        """What somebody with write access lays there."""
        for data in (record, signature):
            self.registry.upload(digest_bytes(data), _stream(data))
        self.registry.tag(tag, manifest_of(record, signature, artifact.outputs))


def _stream(data: bytes) -> Any:
    return io.BytesIO(data)


@contextmanager
def serving(folder: Path, *, read_only: bool = False, port: int = 0) -> Iterator[Served]:
    """Debian's registry over a folder, until the end of the block."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    config = folder.parent / f"{folder.name}-{port}.json"
    storage: dict[str, Any] = {
        "filesystem": {"rootdirectory": str(folder)},
        "maintenance": {"readonly": {"enabled": read_only}, "uploadpurging": {"enabled": False}},
    }
    http = {"addr": f"127.0.0.1:{port}", "secret": "for tests"}
    config.write_text(json.dumps({"version": "0.1", "log": {"level": "error"}, "storage": storage, "http": http}))
    with (folder.parent / "registry.log").open("ab") as log:
        process = subprocess.Popen([program, "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + _UP_SECONDS
        while not _answers(port):
            assert process.poll() is None, (folder.parent / "registry.log").read_text()[-2000:]
            assert time.monotonic() < ends, "the registry does not answer"
            time.sleep(0.05)
        yield Served(folder, port, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/v2/", timeout=1).ok
    except requests.RequestException:
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "registry") as one:
        yield one


def document_of(name: str) -> dict[str, Any]:
    return {"stage": name}


def built(store: Store, name: str = "image") -> Artifact:
    document = document_of(name)
    with store.building(digest_json(document), document) as work:
        for path, data in FILES.items():
            (work.path / path).parent.mkdir(exist_ok=True)
            (work.path / path).write_bytes(data)
        (work.path / "run").chmod(0o755)
        return work.commit(2.5)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """Built by another machine."""
    return built(Store(tmp_path / "theirs"))


@dataclass
class Puller:
    """A machine that pulls, and what it said."""

    store: Store
    said: list[str]

    def pull(
        self, registry: Registry, *trusted: SecretKey, name: str = "image", cache: SharedCache | None = None
    ) -> Artifact | None:
        """Pull as a build does it. None if it would build; nothing is left in its folder then."""
        keys = tuple(key.public_key for key in trusted or (OURS,))
        reader = cache or SharedCache(registry, keys, self.said.append)
        document = document_of(name)
        with self.store.building(digest_json(document), document) as work:
            got = reader.pull(name, document, work)
            assert got is not None or not list(work.path.iterdir()), "the stage starts with an empty folder"
        return got


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(Store(tmp_path / "ours"), [])


def test_push_and_pull(served: Served, artifact: Artifact, puller: Puller) -> None:
    assert puller.pull(served.registry) is None
    assert not puller.said, "what nobody pushed is no trouble"
    first = push(served.registry, artifact, OURS)
    assert first.fresh
    assert first.blobs == 3, "each content once, and none for an empty file"
    assert not push(served.registry, artifact, OURS).fresh
    pulled = puller.pull(served.registry)
    assert pulled is not None
    assert {name: (pulled.path / name).read_bytes() for name in FILES} == FILES
    assert (pulled.path / "run").stat().st_mode & 0o777 == 0o555
    assert puller.store.verify(artifact.key) is not None
    record = (pulled.path.parent / RECORD).read_bytes()
    assert record == (artifact.path.parent / RECORD).read_bytes()
    assert puller.store.origin(artifact.key) == f"{served.place} {OURS.public_key.name}"
    assert not puller.said


def test_only_trusted_keys(served: Served, artifact: Artifact, puller: Puller) -> None:
    push(served.registry, artifact, THEIRS)
    assert puller.pull(served.registry) is None
    record = (artifact.path.parent / RECORD).read_bytes()
    served.put(record, sign(record, artifact.key, THEIRS), artifact, tag_of(artifact.key, OURS.public_key.name))
    assert puller.pull(served.registry) is None
    assert "not trusted" in puller.said[-1]
    assert puller.pull(served.registry, OURS, THEIRS) is not None


@pytest.mark.parametrize(
    "trick", ["changed", "truncated", "longer", "removed", "unsigned", "comment", "other key", "other document"]
)
def test_tampering(served: Served, artifact: Artifact, puller: Puller, trick: str) -> None:
    """All that somebody may do who can write into the registry: found, named, built again."""
    push(served.registry, artifact, OURS)
    tag = tag_of(artifact.key, OURS.public_key.name)
    record = (artifact.path.parent / RECORD).read_bytes()
    blob = served.blob(artifact.outputs["image"].sha256)
    whole = blob.read_bytes()
    match trick:
        case "changed":
            blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            expected = "sha256"
        case "truncated":
            blob.write_bytes(whole[: len(whole) // 2])
            expected = "bytes|breaks off"
        case "longer":
            blob.write_bytes(whole + b"more")
            expected = "bytes|sha256|longer"
        case "removed":
            blob.unlink()
            expected = "the registry lacks one of its files"
        case "unsigned":
            served.put(record, b"no signature", artifact, tag)
            expected = "minisign"
        case "comment":
            served.put(record, OURS.sign_bytes(record, comment_of(artifact.key) + "x"), artifact, tag)
            expected = "something else"
        case "other key":
            other = built(Store(puller.store.root.parent / "others"), "another")
            push(served.registry, other, OURS)
            served.registry.tag(tag, served.registry.manifest(tag_of(other.key, OURS.public_key.name)))
            expected = "something else"
        case "other document":
            forged = record.replace(b'"stage":"image"', b'"stage":"other"')
            served.put(forged, sign(forged, artifact.key, OURS), artifact, tag)
            expected = "document"
    assert puller.pull(served.registry) is None
    (line,) = puller.said
    assert re.search(expected, line), line
    assert artifact.key[:12] in line or "breaks off" in line


def test_every_bit_of_record_and_signature(served: Served, artifact: Artifact, puller: Puller) -> None:
    """A record or signature with any bit turned, laid there with the digest that it then has."""
    push(served.registry, artifact, OURS)
    tag = tag_of(artifact.key, OURS.public_key.name)
    record = (artifact.path.parent / RECORD).read_bytes()
    signature = sign(record, artifact.key, OURS)
    for place in range(0, len(record), 97):
        changed = record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]
        served.put(changed, signature, artifact, tag)
        assert puller.pull(served.registry) is None
    for place in range(0, len(signature), 29):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        served.put(record, changed, artifact, tag)
        assert puller.pull(served.registry) is None
    served.put(record, signature, artifact, tag)
    assert puller.pull(served.registry) is not None


def test_a_registry_that_is_down_is_reported_once(tmp_path: Path, artifact: Artifact, puller: Puller) -> None:
    with serving(tmp_path / "registry") as served:
        push(served.registry, artifact, OURS)
    cache = SharedCache(served.registry, (OURS.public_key, THEIRS.public_key), puller.said.append)
    for name in ("image", "another"):
        assert puller.pull(served.registry, name=name, cache=cache) is None
    (line,) = puller.said
    assert "cannot be reached" in line
    assert "continues without it" in line


def test_a_registry_that_breaks_off(artifact: Artifact, puller: Puller, served: Served) -> None:
    """Gone in the middle of a file: what came is thrown away, and the run goes on without the cache."""
    push(served.registry, artifact, OURS)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:  # manifest, signature and record were read
            served.process.kill()
            served.process.wait()

    registry = Registry(served.place, check=check)
    big = served.blob(artifact.outputs["image"].sha256)
    assert big.stat().st_size > 2_000_000, "more than the buffers of a socket"
    assert puller.pull(registry) is None
    (line,) = puller.said
    assert "continues without it" in line


def test_read_only(tmp_path: Path, artifact: Artifact, puller: Puller) -> None:
    with serving(tmp_path / "registry") as served:
        push(served.registry, artifact, OURS)
    with serving(tmp_path / "registry", read_only=True) as served:
        assert puller.pull(served.registry) is not None
        with pytest.raises(UnavailableError, match="refuses"):
            push(served.registry, built(Store(tmp_path / "theirs"), "another"), THEIRS)


def test_doit_pushes_and_pulls_and_builds_without_the_registry(tiny: Tiny, served: Served, tmp_path: Path) -> None:
    """Built, pushed, pulled by a checkout without a store; built when the registry is gone."""
    secret, cache = tmp_path / "cache.key", f"cache={served.place}"
    secret.write_bytes(OURS.dump())
    secret.chmod(0o600)
    trusted = f"cache-key={OURS.public_key.text}"
    tiny.doit(cache, trusted)
    said = tiny.doit("cache:push", cache, f"key={secret}", status=REFUSED)
    assert "cache-push=lab" in said
    assert "cache-push=dirty" in said
    pushing = ("cache:push", cache, f"key={secret}", "cache-push=lab,dirty")
    assert "3 pushed" in tiny.doit(*pushing)
    assert "3 there already" in tiny.doit(*pushing)
    image = tiny.image
    shutil.rmtree(tiny.folder / "build" / "store")
    said = tiny.doit(cache, trusted)
    assert len(re.findall(r"^(?:first|second|third) .*\bpulled\b", said, re.MULTILINE)) == 3, said
    assert "3 pulled" in said
    assert tiny.image == image
    assert "3 pulled, not built here" in tiny.doit(*pushing)
    served.process.kill()
    served.process.wait()
    shutil.rmtree(tiny.folder / "build" / "store")
    said = tiny.doit(cache, trusted)
    assert said.count("continues without it") == 1
    assert "3 built" in said
    assert tiny.doit(*pushing, status=FETCH_ERROR).count("cannot be reached") == 1
