# SPDX-License-Identifier: Apache-2.0
"""Arrange a Debian kernel as Alpine does: boot/vmlinuz-<flavor>, modules with their indexes, the kernel.release file.

Debian leaves `modules.dep` to an install script; here depmod runs on the unpacked modules.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

from pipeline.base import proc
from pipeline.base.errors import ConfigError
from pipeline.channels.lab.catalog import Kernel
from pipeline.channels.lab.package_tree import Node, PackageTree, matcher

_MODULES = "lib/modules/"
_DEPMOD_SECONDS = 300
_HINT = "apt-get install kmod"


def depmod_version() -> str:
    """Return the version of this machine's depmod: its output is part of a kernel package."""
    return proc.run(("depmod", "--version"), timeout=30, hint=_HINT).stdout.decode().strip()


def lay_kernel(tree: PackageTree, kernel: Kernel, scratch: Path) -> None:
    """Reshape a tree that holds one Debian kernel; `scratch` is an empty folder for depmod. Raises ConfigError."""
    releases = {path[len(_MODULES) :].split("/")[0] for path in tree.nodes if path.startswith(_MODULES)}
    if len(releases) != 1:
        raise ConfigError(
            f"kernel {kernel.flavor}: modules of {sorted(releases)}, expected of one kernel", hint="look at its `from`"
        )
    (release,) = releases
    tree.rename(f"boot/vmlinuz-{release}", f"boot/vmlinuz-{kernel.flavor}")
    tree.rename(f"boot/config-{release}", f"boot/config-{release}-{kernel.flavor}")
    # Debian's file is a stub that names the real one.
    tree.remove(f"boot/System.map-{release}")
    _lay_device_trees(tree, release, kernel.device_trees)
    _index_modules(tree, release, scratch)
    for place, text in (
        (f"usr/share/kernel/{kernel.flavor}/kernel.release", f"{release}\n"),
        # mkinitfs's trigger reads the flavor here; otherwise it would use the end of Debian's release.
        (f"{_MODULES}{release}/kernel-suffix", f"-{kernel.flavor}\n"),
    ):
        tree.add_file(Node(place, "file", 0o644), io.BytesIO(text.encode()))


def _lay_device_trees(tree: PackageTree, release: str, pattern: str) -> None:
    folder = f"usr/lib/linux-image-{release}/"
    wanted = matcher((pattern,) if pattern else ())
    for path in [path for path in tree.nodes if path.startswith(folder)]:
        if tree.nodes[path].kind == "file" and wanted.fullmatch(path[len(folder) :]):
            tree.rename(path, f"boot/{PurePosixPath(path).name}")
        else:
            tree.remove(path)


def _index_modules(tree: PackageTree, release: str, scratch: Path) -> None:
    modules = f"{_MODULES}{release}"
    for node in tree.files():
        if node.path.startswith(f"{modules}/"):
            tree.lay(node.path, scratch / node.path)
    proc.run(("depmod", "-b", scratch, release), timeout=_DEPMOD_SECONDS, hint=_HINT)
    for path in sorted((scratch / modules).glob("modules.*")):
        name = f"{modules}/{path.name}"
        with path.open("rb") as stream:
            tree.add_file(tree.nodes.get(name, Node(name, "file", 0o644)), stream)
