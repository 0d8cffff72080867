# SPDX-License-Identifier: Apache-2.0
"""What `tower install` has installed, by machine: one word of apk's a line, kept to install it again after an upgrade.

It is not a host's own /etc/apk/world, which also names what its image is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tower.base.errors import StateError, ValueRefusedError
from tower.base.files import locked, look, read_file, write_file
from tower.install.apkwords import name_of
from tower.install.choose import check_names


def read_wanted(file: Path) -> tuple[str, ...]:
    """The words of a file, sorted; none if there is no file. Raises StateError if one could not be a package's name."""
    if not look(file):
        return ()
    words = read_file(file).decode(errors="replace").split()
    try:
        check_names(words)
    except ValueRefusedError as error:
        raise StateError(f"{file}: {error.message}", hint="remove that line") from error
    return tuple(words)


def record_wanted(file: Path, words: Sequence[str]) -> None:
    """Add words to a file; one takes the place of another about the same package."""
    with locked(file.with_name(f".{file.name}.lock")):
        kept = {name_of(word): word for word in (*read_wanted(file), *words)}
        write_file(file, "".join(f"{kept[name]}\n" for name in sorted(kept)).encode())
