# SPDX-License-Identifier: Apache-2.0
"""What a stage made, as the sandbox itself lists it: the measure of what the engine hands out.

An engine packs /out into a tar, and what it cannot pack (a socket, a file that it cannot read) it leaves out without a
word. So a stage's command is run by a few lines of shell that write, once it has ended well, the kind and the path of all
that lies there into a file beside it. Nothing but the shell is needed for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.base.errors import FormatError, StageError
from pipeline.formats.tarstream import Content, TarEntry

NAME = ".tower-made"
"""The list, below /out. It is no output, and no stage may write it."""
_MOST = 64 << 20
_KINDS = {"file": "file", "folder": "dir", "closed": "dir"}
_OTHER = {"socket": "is a socket", "link": "is a symbolic link", "special": "is a device or pipe"}
# What the shell itself adds to its environment is taken away again: the command sees what it would without it.
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
    """The command that runs `argv`, ends as it ends, and lists what it left in /out if that is well."""
    return ("sh", "-c", _SCRIPT, "sh", *argv)


def read(entry: TarEntry, content: Content) -> bytes:
    """The list out of the stream. Raises FormatError if it is longer than any."""
    if entry.size > _MOST:
        raise FormatError(f"the list of what the stage made has {entry.size} bytes, {_MOST} are allowed")
    return content.read()


def compare(listed: bytes | None, came: Mapping[str, str]) -> None:
    """Raise StageError unless what came (paths, `file` or `dir`) is what the list of the sandbox says."""
    if listed is None:
        raise _incomplete("the list of what the stage made did not come")
    made = _parse(listed)
    closed = [f"{path}/" for path, kind in made.items() if kind == "closed"]
    for path, kind in sorted(made.items()):
        if kind in _OTHER:
            raise StageError(
                f"/out/{shown(path)}: {_OTHER[kind]}; outputs are regular files and folders",
                hint="remove it at the end of the stage's script, or make it in /tmp",
            )
        if came.get(path) != _KINDS[kind]:
            raise _incomplete(f"/out/{shown(path)}: the stage made it, and it did not come")
    for path in sorted(came):
        if path not in made and not path.startswith(tuple(closed)):
            raise _incomplete(f"/out/{shown(path)}: came, and the stage did not make it")


def _parse(listed: bytes) -> dict[str, str]:
    rows = listed.decode(errors="surrogateescape").split("\0")
    if rows.pop():
        raise _incomplete("the list of what the stage made is cut off")
    made: dict[str, str] = {}
    for row in rows:
        kind, _, path = row.partition(" ")
        if kind not in {*_KINDS, *_OTHER} or not path:
            raise _incomplete("the list of what the stage made is damaged")
        if path != NAME:
            made[path] = kind
    return made


def _incomplete(what: str) -> StageError:
    return StageError(f"the outputs came back broken: {what}", hint="run the same command again")


def shown(path: str) -> str:
    """A path as messages have it: no terminal obeys it."""
    return ascii(path)[1:-1]
