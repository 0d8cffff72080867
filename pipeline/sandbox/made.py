# SPDX-License-Identifier: Apache-2.0
"""The list of a stage's outputs, made in the sandbox itself, to check what the engine delivers.

An engine packs /out into a tar, and silently leaves out what it cannot pack (a socket, a file that it cannot read). So
a few lines of shell run the stage's command, and after its success write the kind and the path of everything in /out
into a file there. That needs only the shell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from pipeline.base.errors import FormatError, StageError
from pipeline.formats.tarstream import Content, TarEntry

NAME = ".tower-made"
"""The name of the list, below /out. It is not an output, and no stage may write it."""
_MOST = 64 << 20
"""The most bytes that the list may have."""
_KINDS = {"file": "file", "folder": "dir", "closed": "dir"}
_OTHER = {"socket": "is a socket", "link": "is a symbolic link", "special": "is a device or pipe"}
# Remove what the shell adds to its environment: the command sees the same environment as without it.
_SCRIPT = f"""
unset PWD OLDPWD SHLVL
command -v "$1" >/dev/null || {{ echo "its command is not in the builder: $1" >&2; exit 127; }}
"$@" || exit
list() {{
    for path in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        kind=
        if [ -h "$path" ]; then kind=link
        elif [ -d "$path" ]; then
            kind=folder
            [ -r "$path" ] && [ -x "$path" ] || kind=closed
        elif [ -f "$path" ]; then kind=file
        elif [ -S "$path" ]; then kind=socket
        elif [ -e "$path" ]; then kind=special
        else continue
        fi
        printf '%s %s\\0' "$kind" "${{path#/out/}}"
        [ "$kind" != folder ] || list "$path"
    done
}}
if [ -e /out/{NAME} ] || [ -h /out/{NAME} ]; then
    echo "/out/{NAME}: this name is taken for the list of what the stage made" >&2
    exit 1
fi
list /out >/out/{NAME}
"""


def wrapped(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs `argv`, ends with its status, and after a success lists the files in /out."""
    return ("sh", "-c", _SCRIPT, "sh", *argv)


def read(entry: TarEntry, content: Content | BinaryIO) -> bytes:
    """Read the list. Raises FormatError if it is too long."""
    if entry.size > _MOST:
        raise FormatError(f"the list of the stage's outputs has {entry.size} bytes, {_MOST} are allowed")
    return content.read()


def compare(listed: bytes | None, came: Mapping[str, str]) -> None:
    """Raise StageError unless the delivered paths (`file` or `dir`) are those of the sandbox's list."""
    if listed is None:
        raise _incomplete("the list of the stage's outputs is missing")
    made = _parse(listed)
    closed = [f"{path}/" for path, kind in made.items() if kind == "closed"]
    for path, kind in sorted(made.items()):
        if kind in _OTHER:
            raise StageError(
                f"/out/{shown(path)}: {_OTHER[kind]}; outputs are regular files and folders",
                hint="remove it at the end of the stage's script, or make it in /tmp",
            )
        if came.get(path) != _KINDS[kind]:
            raise _incomplete(f"/out/{shown(path)}: the stage made it, but the engine did not deliver it")
    for path in sorted(came):
        if path not in made and not path.startswith(tuple(closed)):
            raise _incomplete(f"/out/{shown(path)}: the engine delivered it, but the stage did not make it")


def _parse(listed: bytes) -> dict[str, str]:
    rows = listed.decode(errors="surrogateescape").split("\0")
    if rows.pop():
        raise _incomplete("the list of the stage's outputs is cut off")
    made: dict[str, str] = {}
    for row in rows:
        kind, _, path = row.partition(" ")
        if kind not in {*_KINDS, *_OTHER} or not path:
            raise _incomplete("the list of the stage's outputs is damaged")
        if path != NAME:
            made[path] = kind
    return made


def _incomplete(what: str) -> StageError:
    return StageError(f"the outputs came back broken: {what}", hint="run the same command again")


def shown(path: str) -> str:
    """Return a path for messages, without control characters."""
    return ascii(path)[1:-1]
