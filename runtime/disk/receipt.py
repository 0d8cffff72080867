# SPDX-License-Identifier: Apache-2.0
"""The receipt of a provisioning: which image was written to which device, and how far it came.

    prepared -> written -> answered

It is written when the host gets its keys, before its device is touched, so that an interrupted `tower` can be resumed;
it is closed when the host first answers, and the host shows its copy from the boot partition.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tower.base.errors import StateError
from tower.base.files import read_file, write_file
from tower.base.jsontext import parse_json

if TYPE_CHECKING:
    from tower.image.source import ImageSource

_SCHEMA: Final = 1
_ID: Final = re.compile(r"[0-9a-f]{32}")


class Stage(StrEnum):
    """How far a provisioning has come."""

    PREPARED = "prepared"
    WRITTEN = "written"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Target:
    """The disk that was, or will be, written, or a file for a virtual machine (kind `file`)."""

    path: str
    size: int
    serial: str
    model: str
    kind: str
    identity: str = ""
    """Distinguishes this disk or file from others until this machine restarts; empty if the file did not exist yet."""

    def __str__(self) -> str:
        from tower.disk.device import human_size

        words = [word for word in (self.model, f"serial {self.serial}" if self.serial else "") if word]
        return f"{self.path} ({', '.join([*words, self.kind, human_size(self.size)])})"


@dataclass(frozen=True, slots=True)
class Receipt:
    """One provisioning of one host."""

    id: str
    """The ID of this provisioning."""
    host: str
    stage: Stage
    image: str
    """Path of the image."""
    image_sha256: str
    version: str
    channel: str
    target: Target
    prepared: str
    written: str = ""
    answered: str = ""
    system: str = ""
    """The host's description of its system in its first answer."""

    @classmethod
    def new(cls, host: str, source: ImageSource, target: Target) -> Receipt:
        """Return the receipt of a provisioning that begins now."""
        return cls(
            id=secrets.token_hex(16),
            host=host,
            stage=Stage.PREPARED,
            image=str(source.path.absolute()),
            image_sha256=source.sha256,
            version=source.version,
            channel=source.channel,
            target=target,
            prepared=now(),
        )

    def dump(self) -> bytes:
        """Return the content of the file."""
        return (json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode()

    def at(self, stage: Stage, *, system: str = "") -> Receipt:
        """Return the receipt at a later stage."""
        if stage is Stage.ANSWERED:
            return replace(self, stage=stage, system=system, answered=now())
        return replace(self, stage=stage, written=now(), answered="", system="")

    @property
    def public(self) -> bytes:
        """Return the host's copy, without the paths of the thin client's files."""
        shown = {"schema": _SCHEMA, "id": self.id, "host": self.host, "version": self.version, "channel": self.channel}
        return (json.dumps({**shown, "image_sha256": self.image_sha256}, indent=1, sort_keys=True) + "\n").encode()


def now() -> str:
    """Return the time, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(data: bytes, where: str) -> Receipt:
    """Parse a receipt. Raises StateError naming `where`."""
    try:
        row: dict[str, Any] = parse_json(data)
        if row.pop("schema") != _SCHEMA or not _ID.fullmatch(row["id"]):
            raise StateError(f"{where}: was written by another version of tower")
        target, stage = Target(**row.pop("target")), Stage(row.pop("stage"))
        texts = [value for name, value in (*row.items(), *asdict(target).items()) if name != "size"]
        if not isinstance(target.size, int) or not all(isinstance(text, str) for text in texts):
            raise StateError(f"{where}: is not a receipt")
        return Receipt(stage=stage, target=target, **row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{where}: is not a receipt: {error}", hint="remove the host: tower deprovision") from None


def read(path: Path) -> Receipt:
    """Read the receipt in a file. Raises StateError."""
    return parse(read_file(path), str(path))


def write(path: Path, receipt: Receipt) -> None:
    """Write a receipt to a file."""
    write_file(path, receipt.dump())
