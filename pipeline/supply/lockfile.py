# SPDX-License-Identifier: Apache-2.0
"""Lock files: their place, their text, which a person can review, and the differences between two in words.

The lock of a channel for releases is committed, in pipeline/locks/; that of any other channel is generated. Each line is
one file, in a fixed order. The digest in it reveals an edit by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.apk.format import version as versions
from pipeline.base.canonical import JsonValue, digest_json
from pipeline.base.errors import LockError
from pipeline.base.paths import Paths
from pipeline.config.channel import Channel
from pipeline.supply.lock import Lock, LockedFile

_ORDER = (
    "schema",
    "channel",
    "digest",
    "made_from",
    "notes",
    "indexes",
    "media",
    "builder",
    "native_builders",
    "choices",
    "packages",
    "wheels",
)
_ROW = ("name", "version", "size", "sha256", "checksum", "signer", "made", "location", "world", "packages")


def lock_path(paths: Paths, channel: Channel) -> Path:
    """Return the path of a channel's lock."""
    if channel.releasable:
        return paths.checkout / "pipeline" / "locks" / f"{channel.name}.lock.json"
    return paths.channel(channel.name) / "lock.json"


def lock_command(channel: Channel | str) -> str:
    """Return the command that locks a channel."""
    name = channel if isinstance(channel, str) else channel.name
    return "./ci/doit lock" + ("" if name == "lab" else f" channel={name}")


# --- text ---------------------------------------------------------------------------------------------------


def render(lock: Lock) -> str:
    """Return the lock as JSON with one line for each file, for `parse`."""
    data = lock.to_json()
    data["digest"] = digest_json(data)
    lines = [f" {json.dumps(name)}: {_value(data[name], 1)}" for name in _ORDER if name in data]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: JsonValue, depth: int) -> str:
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        inner = ",\n".join(f"{pad}{json.dumps(key)}: {_value(value[key], depth + 1)}" for key in sorted(value))
        return "{\n" + inner + f"\n{pad[1:]}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"{pad}{_row(row)}" for row in value) + f"\n{pad[1:]}]"
    return json.dumps(value, ensure_ascii=False)


def _row(row: JsonValue) -> str:
    if not isinstance(row, dict):
        return json.dumps(row)
    return json.dumps({name: row[name] for name in _ROW if name in row}, ensure_ascii=False)


def parse(text: str | bytes, where: str, *, channel: Channel | str = "lab", strict: bool = False) -> Lock:
    """Parse the text of `render`. Raises LockError if it is damaged or was edited by hand; `strict` requires the digest."""
    hint = f"never edit a lock; run: {lock_command(channel)}"
    try:
        data: Any = parse_json(text.encode() if isinstance(text, str) else text)
    except ValueError as error:
        raise LockError(f"{where}: not JSON: {error}", hint=hint) from error
    if not isinstance(data, dict):
        raise LockError(f"{where}: not a lock", hint=hint)
    stated = data.pop("digest", None)
    lock = Lock.from_json(data, where)
    if (strict or stated is not None) and stated != digest_json(data):
        raise LockError(f"{where}: was changed by hand, or damaged: its digest does not match", hint=hint)
    return lock


def read(path: Path, channel: Channel) -> Lock:
    """Read the lock in a file. Raises LockError."""
    try:
        return parse(read_regular(path), str(path), channel=channel, strict=True)
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {error.strerror}", hint=f"run: {lock_command(channel)}") from error


# --- words --------------------------------------------------------------------------------------------------


def differences(old: Lock | None, new: Lock) -> list[str]:
    """List the changes of a new lock, a line for each; empty if the content is equal."""
    if old is None:
        return [f"first lock: {len(new.files)} files"]
    lines = []
    for title, before, after in _tables(old, new):
        lines += [
            f"{title}: {text}" for text in _changes({file.name: file for file in before}, {file.name: file for file in after})
        ]
    lines += [f"{title}: {text}" for title, before, after in _tables(old, new) for text in _keys(before, after)]
    lines += [line for arch in sorted({*old.choices, *new.choices}) for line in _choices(arch, old, new)]
    for name in sorted({*old.notes, *new.notes}):
        if old.notes.get(name) != new.notes.get(name):
            lines.append(f"{name}: {old.notes.get(name, 'not stated')} -> {new.notes.get(name, 'not stated')}")
    return lines


def _tables(old: Lock, new: Lock) -> list[tuple[str, Iterable[LockedFile], Iterable[LockedFile]]]:
    rows: list[tuple[str, Iterable[LockedFile], Iterable[LockedFile]]] = []
    kinds: tuple[tuple[str, Mapping[str, tuple[LockedFile, ...]], Mapping[str, tuple[LockedFile, ...]]], ...] = (
        ("index", old.indexes, new.indexes),
        ("", old.packages, new.packages),
        ("wheel", old.wheels, new.wheels),
        ("builder", old.native_builders, new.native_builders),
    )
    for kind, before, after in kinds:
        rows += [(f"{arch} {kind}".strip(), before.get(arch, ()), after.get(arch, ())) for arch in sorted({*before, *after})]
    return [*rows, ("builder", old.builder, new.builder), ("medium", old.media, new.media)]


def _changes(before: Mapping[str, LockedFile], after: Mapping[str, LockedFile]) -> Iterable[str]:
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was is None and now is not None:
            yield f"added {name} {now.version}"
        elif now is None and was is not None:
            yield f"removed {name} {was.version}"
        elif was is not None and now is not None and was.made != now.made:
            yield f"{name}: made {_day(was.made)} -> {_day(now.made)}"
        elif was is not None and now is not None and was.version != now.version:
            yield f"{_direction(was.version, now.version)} {name} {was.version} -> {now.version}"
        elif was is not None and now is not None and was.sha256 != now.sha256:
            yield f"changed {name} {now.version}: same version, other content"


def _choices(arch: str, old: Lock, new: Lock) -> Iterable[str]:
    """Yield the changes of a world's choice that the table of all packages does not show."""
    locked = [{f"{file.name}={file.version}" for file in lock.packages.get(arch, ())} for lock in (old, new)]
    before = {choice.world: set(choice.packages) for choice in old.choices.get(arch, ())}
    for choice in new.choices.get(arch, ()):
        was, now = before.get(choice.world), set(choice.packages)
        if was is None:
            continue
        title = f"{arch} world {' '.join(choice.world[:3])}{' ...' if len(choice.world) > 3 else ''}"
        yield from (f"{title}: added {one}" for one in sorted((now - was) & locked[0]))
        yield from (f"{title}: removed {one}" for one in sorted((was - now) & locked[1]))


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _direction(was: str, now: str) -> str:
    if not (versions.is_valid(was) and versions.is_valid(now)):
        return "changed"
    return "upgraded" if versions.compare(now, was) > 0 else "downgraded"


def _keys(before: Iterable[LockedFile], after: Iterable[LockedFile]) -> Iterable[str]:
    signers = {file.name: file.signer for file in before}
    moved: dict[tuple[str, str], list[str]] = {}
    for file in after:
        was = signers.get(file.name, file.signer)
        if was != file.signer:
            moved.setdefault((was or "none", file.signer or "none"), []).append(file.name)
    for (was, now), names in sorted(moved.items()):
        yield f"key changed from {was} to {now} for {', '.join(sorted(names))}"
