# SPDX-License-Identifier: Apache-2.0
"""The packages that `tower install` has installed, by machine: one word of apk a line, to install them again after an upgrade.

This is not a host's own /etc/apk/world, which also names the packages of its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tower.base.errors import StateError, ValueRefusedError
from tower.base.files import locked, look, read_file, write_file
from tower.install.apkwords import name_of
from tower.install.choose import check_names


def read_wanted(file: Path) -> tuple[str, ...]:
    """Return the words of a file, sorted; none if there is no file. Raises StateError if one is not a package's name."""
    if not look(file):
        return ()
    words = read_file(file).decode(errors="replace").split()
    try:
        check_names(words)
    except ValueRefusedError as error:
        raise StateError(f"{file}: {error.message}", hint="remove that line") from error
    return tuple(words)


def record_wanted(file: Path, words: Sequence[str]) -> None:
    """Add words to a file; a word replaces another one about the same package."""
    with locked(file.with_name(f".{file.name}.lock")):
        kept = {name_of(word): word for word in (*read_wanted(file), *words)}
        write_file(file, "".join(f"{kept[name]}\n" for name in sorted(kept)).encode())
