# SPDX-License-Identifier: Apache-2.0
"""The reviewed lists: pipeline/images/elf/<channel>.toml, a table for each image (`[host-pc]`), read and drafted."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.config.toml import Problems, Table, read_toml
from pipeline.images.elf.audit import Exempt, Lists, Reviewed

FOLDER: Final = Path("pipeline/images/elf")


def reviewed_path(checkout: Path, channel: str) -> Path:
    """Return the file of a channel."""
    return checkout / FOLDER / f"{channel}.toml"


def read_reviewed(path: Path, shown: str) -> Mapping[str, Reviewed]:
    """Read the file: image (`host-pc`) -> its lists; empty if there is no file. Raises a ConfigError with every mistake."""
    if not path.exists():
        return {}
    problems = Problems()
    top = read_toml(path, problems, shown=shown)
    found = {name: _reviewed(top.table(name)) for name in top}
    top.close()
    problems.check("the reviewed lists")
    return found


def _reviewed(table: Table) -> Reviewed:
    lists = Lists(*(_sorted(table, key) for key in ("setuid", "services", "modules")))
    exempt: list[Exempt] = []
    for row in table.tables("exempt"):
        exempt.append(Exempt(row.text("path"), row.text("what"), row.text("why")))
    return Reviewed(lists, tuple(exempt))


def _sorted(table: Table, key: str) -> tuple[str, ...]:
    names = table.strings(key, ())
    if list(names) != sorted(set(names)):
        table.problem(key, "must be sorted, each name once")
    return names


def draft(name: str, lists: Lists) -> str:
    """Return the table for the present image; a person has to check it before it is committed."""
    lines = [f"[{name}]"]
    for key in ("setuid", "services"):
        rows = "".join(f"  {json.dumps(row)},\n" for row in getattr(lists, key))
        lines.append(f"{key} = [\n{rows}]" if rows else f"{key} = []")
    rows = textwrap.fill(", ".join(json.dumps(row) for row in lists.modules), 116, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"modules = [\n{rows},\n]" if lists.modules else "modules = []")
    return "\n".join(lines) + "\n"
