# SPDX-License-Identifier: Apache-2.0
"""Features and the configuration file: features.d/<name>.files and <name>.modules name what belongs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path


def read_config(path: Path) -> dict[str, str]:
    """The assignments of mkinitfs.conf: a shell file of plain name="value" lines."""
    values: dict[str, str] = {}
    if not path.is_file():
        return values
    for word in shlex.split(path.read_text(), comments=True):
        name, found, value = word.partition("=")
        if found and name.isidentifier():
            values[name] = value
    return values


def available(folders: Iterable[Path]) -> list[str]:
    """The names of all features there are."""
    return sorted({path.stem for folder in folders for kind in ("files", "modules") for path in folder.glob(f"*.{kind}")})


def patterns(folders: Iterable[Path], features: Iterable[str], kind: str) -> Iterator[str]:
    """The lines of the features' files of one kind; the first folder that has a feature wins."""
    places = tuple(folders)
    for feature in features:
        for folder in places:
            path = folder / f"{feature}.{kind}"
            if not path.is_file():
                continue
            for line in path.read_text().splitlines():
                text = line.strip()
                if text and not text.startswith("#"):
                    yield from text.split()
            break
