# SPDX-License-Identifier: Apache-2.0
"""Everybody who reads JSON that others may have written: odd JSON is an error of ours, or as if there were none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tower.base.errors import TowerError
from tower.disk import device, receipt
from tower.hosts.registry import Tower
from tower.image import source
from tower.install import bundle_install, fetch
from tower.provision import answer
from tower.upgrade import upgrade

from pipeline.base.canonical import Digest
from pipeline.base.errors import FactoryError
from pipeline.base.paths import Paths
from pipeline.channels.alpine.indexes import Freshness
from pipeline.cli import qa
from pipeline.images import boot_record, imageset, manifest
from pipeline.release import attest, inspection
from pipeline.sandbox import place
from pipeline.store import artifact
from pipeline.store.cache import signed_record
from pipeline.supply import lockfile, wheels
from tests.unit.runtime.test_jsontext import ODD

KEY = Digest("0" * 64)
Read = Callable[[bytes, Path], Any]


def in_file(read: Callable[[Path], Any], name: str = "x.json") -> Read:
    """For one that reads a file."""

    def act(data: bytes, folder: Path) -> Any:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return act


def context(path: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(path.parents[3]))
        return place.find_place("far", "engine.aarch64")


def image(path: Path) -> object:
    for name in ("a.img", "a.img.bmap", "a.img.sha256"):
        (path.parent / name).touch()
    return source.read_source(path.parent / "a.img")


def seen(path: Path) -> None:
    bundle_install._check_age(Tower(path.parent, path.parent / "config"), "x", 1)


REFUSED: dict[str, Read] = {
    "record": lambda data, _: artifact.parse_record(data, KEY),
    "lock": lambda data, _: lockfile.parse(data, "lock"),
    "packages of a stage": in_file(lambda path: manifest.read_packages(path, "iso")),
    "manifest in a registry": lambda data, _: signed_record._places(data, "x"),
    "docker context": in_file(context, f"contexts/meta/{hashlib.sha256(b'far').hexdigest()}/meta.json"),
    "release": in_file(inspection._json),
    "receipt": lambda data, _: receipt.parse(data, "receipt"),
    "receipt of a host": lambda data, _: answer.parse_answer(b"PRETTY_NAME=x\n\n-- receipt --\n" + (data or b"{}"), "web"),
    "lsblk": lambda data, _: device.parse_disks(data),
    "manifest of an image": in_file(image, "a.img.manifest.json"),
    "indexes that were seen": in_file(seen, bundle_install.SEEN),
}
"""Readers that raise an error for malformed JSON."""

EMPTY: dict[str, tuple[Read, object]] = {
    "fingerprint": (in_file(lambda path: artifact._read_fingerprint(path.parent), artifact.STAT), {}),
    "wheels": (in_file(wheels._noted), ()),
    "boots": (in_file(lambda path: boot_record.read(Paths(path.parents[2]), KEY), f"build/boots/{KEY}.json"), {}),
    "accepted indexes": (in_file(lambda path: Freshness(path, {})._latest), {}),
    "acceptance": (in_file(qa._record), {}),
    "published set": (in_file(lambda path: imageset.read_note(imageset.Spot(path.parent, "x")), ".x.published"), None),
    "receipt on a boot partition": (lambda data, _: upgrade._receipt_rows(data), {}),
    "notes beside an index": (in_file(fetch._read_notes), {}),
}
"""Readers that treat malformed JSON as an empty file."""

_SHAPES = (b"null", b"[]", b"{}", b"1", b'"x"', b'[["x"]]', b'{"schema": []}', b'{"id": {}}', b'{"blockdevices": [[]]}')
CASES = {**ODD, **{f"an object around {kind}": b'{"id": ' + data + b"}" for kind, data in ODD.items() if kind != "nothing"}}


@pytest.mark.parametrize("reader", REFUSED)
def test_odd_json_is_refused(tmp_path: Path, reader: str) -> None:
    for kind, data in CASES.items():
        with pytest.raises((FactoryError, TowerError)) as caught:
            REFUSED[reader](data, tmp_path)
        assert "\x00" not in str(caught.value), kind


@pytest.mark.parametrize("reader", EMPTY)
def test_invalid_json_is_ignored(tmp_path: Path, reader: str) -> None:
    read, nothing = EMPTY[reader]
    for kind, data in CASES.items():
        assert read(data, tmp_path) == nothing, kind


@pytest.mark.parametrize("reader", [*REFUSED, *EMPTY])
def test_json_of_another_shape(tmp_path: Path, reader: str) -> None:
    read = REFUSED[reader] if reader in REFUSED else EMPTY[reader][0]
    for data in _SHAPES:
        try:
            read(data, tmp_path)
        except (FactoryError, TowerError):
            continue


def test_a_statement_of_another_release() -> None:
    for data in CASES.values():
        assert attest._difference(data, b'{"predicate": {}, "subject": []}').startswith("not a statement")
