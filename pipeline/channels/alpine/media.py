# SPDX-License-Identifier: Apache-2.0
"""Media: the mini root and the boot files of the Raspberry Pi, found by Alpine's list of its latest releases.

The list is not signed by the keys of packages: it comes over https, and somebody has to review what a lock takes from
it. After that, the SHA-256 in the lock decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.base.canonical import Digest
from pipeline.base.errors import FormatError, LockError
from pipeline.supply.lock import LockedFile

LIST = "latest-releases.yaml"
_PAIR = re.compile(r"([a-z0-9_]+):(?: (.*))?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 1000


def read_list(text: str, where: str) -> tuple[Mapping[str, str], ...]:
    """Return the rows of the list. It is YAML in the shape of a list of flat tables; any other shape is refused.

    Raises FormatError.
    """
    rows: list[dict[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or line in ("---", "...") or line.startswith("#"):
            continue
        if line == "-" or line.startswith("- "):
            rows.append({})
            line = "  " + line[2:]  # noqa: PLW2901 (the rest of a dash's line is the table's first)
            content = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if indent > 2 or not content:
            continue  # a line of a text block
        found = _PAIR.fullmatch(content)
        if indent != 2 or not rows or found is None or len(line) > _LONGEST:
            raise FormatError(f"{where}:{number}: not a line of a list of releases: {line[:80]!r}")
        key, value = found[1], (found[2] or "").strip()
        if key in rows[-1]:
            raise FormatError(f"{where}:{number}: {key} is there twice")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        rows[-1][key] = value
    return tuple(rows)


def find_medium(rows: Sequence[Mapping[str, str]], flavor: str, arch: str, branch: str, where: str) -> LockedFile:
    """Return the file of a flavor for an architecture. Raises LockError if there is none, FormatError for a bad row."""
    found = [row for row in rows if row.get("flavor") == flavor and row.get("arch") == arch]
    if not found:
        known = ", ".join(sorted({row.get("flavor", "") for row in rows if row.get("arch") == arch})) or "none"
        raise LockError(f"{where}: no {flavor} for {arch}", hint=f"known flavors: {known}")
    row = found[0]
    file, digest, size = row.get("file", ""), row.get("sha256", ""), row.get("size", "")
    if (
        len(found) > 1
        or not _FILE.fullmatch(file)
        or not _SHA256.fullmatch(digest)
        or not size.isdigit()
        or not row.get("version")
    ):
        raise FormatError(f"{where}: {flavor} for {arch}: not one valid row: {dict(row)}")
    if row.get("branch", branch) != branch:
        raise FormatError(f"{where}: {flavor} for {arch}: is of branch {row['branch']}, not {branch}")
    return LockedFile(f"{flavor}-{arch}", row["version"], Digest(digest), int(size), f"{branch}/releases/{arch}/{file}")
