# SPDX-License-Identifier: Apache-2.0
"""Console keyboard layouts in the format of busybox' loadkmap, at Alpine's paths.

Debian has them as sources for loadkeys, which translates them here: `usr/share/bkeymaps/<layout>/<name>.bmap.gz`.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pipeline.base import proc
from pipeline.base.errors import ConfigError
from pipeline.channels.lab.package_tree import Node, PackageTree

_SOURCES = re.compile(r"usr/share/keymaps/i386/(azerty|dvorak|qwerty|qwertz)/([\w.-]+)\.kmap\.gz")
_LEFT_OUT = re.compile(r"mac-.*|emacs.*|defkeymap.*|lk201-.*|wang.*|pc110")
_SECONDS = 30
_MAGIC = b"bkeymap"
_HINT = "apt-get install kbd"


def loadkeys_version() -> str:
    """Return the version of this machine's loadkeys: its output is part of the package."""
    return proc.run(("loadkeys", "--version"), timeout=_SECONDS, hint=_HINT).stdout.decode().strip()


def lay_keymaps(tree: PackageTree, names: Mapping[str, str], scratch: Path) -> None:
    """Replace a tree of Debian's layouts by translated ones; `names` gives some of them Alpine's names.

    `scratch` is an empty folder for loadkeys. Layouts that do not work on a UTF-8 console (loadkeys refuses them) are
    left out. Raises ConfigError.
    """
    made: dict[str, bytes] = {}
    for node in tree.files():
        tree.lay(node.path, scratch / node.path)
    for node in tree.files():
        match = _SOURCES.fullmatch(node.path)
        if match is None or _LEFT_OUT.fullmatch(match[2]):
            continue
        done = proc.run(
            ("loadkeys", "--quiet", "--bkeymap", "--unicode", scratch / node.path), timeout=_SECONDS, check=False, hint=_HINT
        )
        if done.status == 0 and done.stdout.startswith(_MAGIC):
            name = names.get(match[2], match[2])
            made[f"usr/share/bkeymaps/{re.split('[-_]', name)[0]}/{name}.bmap.gz"] = gzip.compress(done.stdout, mtime=0)
    missing = sorted(set(names.values()) - {PurePosixPath(path).name.removesuffix(".bmap.gz") for path in made})
    if missing:
        raise ConfigError(
            f"keymaps: there is no layout for {', '.join(missing)}", hint="look at packages/kbd-bkeymaps/package.toml"
        )
    for path in list(tree.nodes):
        tree.remove(path)
    for path, content in made.items():
        tree.add_file(Node(path, "file", 0o644), io.BytesIO(content))
