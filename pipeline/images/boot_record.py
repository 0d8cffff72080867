# SPDX-License-Identifier: Apache-2.0
"""The record of boot tests: the machines that an image was booted on, and whether it came up.

It is kept by the digest of the image, so that a record always belongs to the bytes that were booted.
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
"""Names of boot tests, with the recipe and target of the image that each boots."""


def record_path(paths: Paths, digest: Digest) -> Path:
    """Return the path of an image's record."""
    return paths.build / "boots" / f"{digest}.json"


def read(paths: Paths, digest: Digest) -> dict[str, bool]:
    """Return the record: boot test -> whether the image came up; empty if it was never booted.

    A damaged record counts as empty, and so does one of another image that had this one's name.
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
    """Boot an image inside the context, and record how it ends. If the user interrupts it, nothing is recorded."""
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
