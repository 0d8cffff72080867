# SPDX-License-Identifier: Apache-2.0
"""Print the packages of an apk database or index as JSON, for the manifest: name, version, architecture, checksum."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FIELDS = {"P": "name", "V": "version", "A": "arch", "C": "checksum"}


def packages(text: str) -> list[dict[str, str]]:
    """The packages named in a database's or index's text, sorted."""
    rows: list[dict[str, str]] = []
    for block in text.split("\n\n"):
        row: dict[str, str] = {}
        for line in block.splitlines():
            letter, _, value = line.partition(":")
            if letter in FIELDS:
                row.setdefault(FIELDS[letter], value)
        if "name" in row:
            rows.append(row)
    return sorted(rows, key=lambda row: (row["name"], row["version"]))


json.dump(packages(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.stdout, sort_keys=True, indent=1)
sys.stdout.write("\n")
