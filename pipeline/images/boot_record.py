# SPDX-License-Identifier: Apache-2.0
"""The record of boot tests: which machines an image was started on, and whether it came up.

Kept by the digest of the image, so that a record never speaks for other bytes than those that were started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, canonical_json, digest_file
from pipeline.base.errors import FactoryError
from pipeline.base.files import write_file
from pipeline.base.paths import Paths

BOOTS: Final = {
    "thinclient-bios": ("thinclient", "pc"),
    "thinclient-uefi": ("thinclient", "pc"),
    "host-rpi": ("host", "rpi"),
    "host-pc": ("host", "pc"),
}
"""Names of boot tests, and the recipe and target of the image that each starts."""


def record_path(paths: Paths, digest: Digest) -> Path:
    """Where the record of an image is."""
    return paths.build / "boots" / f"{digest}.json"


def read(paths: Paths, digest: Digest) -> dict[str, bool]:
    """Boot test -> whether the image came up; empty if it was never started.

    A damaged record says nothing, nor does one of another image that was given this one's name.
    """
    try:
        record = parse_json(read_regular(record_path(paths, digest)))
        if record["sha256"] != digest:
            return {}
        rows = record["boots"]
        return {str(name): passed is True for name, passed in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@contextmanager
def recorded(paths: Paths, name: str, image: Path) -> Iterator[None]:
    """Start an image inside: how it ends becomes part of its record. What the user breaks off is not recorded."""
    if not image.is_file():
        yield
        return
    digest = digest_file(image)
    try:
        yield
    except FactoryError:
        _note(paths, digest, name, image, passed=False)
        raise
    if digest_file(image) == digest:
        _note(paths, digest, name, image, passed=True)


def _note(paths: Paths, digest: Digest, name: str, image: Path, *, passed: bool) -> None:
    rows = {**read(paths, digest), name: passed}
    write_file(record_path(paths, digest), canonical_json({"image": image.name, "sha256": digest, "boots": {**rows}}))
