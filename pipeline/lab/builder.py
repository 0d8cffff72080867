# SPDX-License-Identifier: Apache-2.0
"""The builder: the root that stages run in, made by mmdebstrap from the locked packages and nothing else.

The packages are offered to mmdebstrap as a local repository of files whose digests have just been checked, so it
needs no network. Files of the lab's own tools are laid over the result; what differs from run to run is left out.
"""

from __future__ import annotations

import os
import shlex
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from pipeline import proc
from pipeline.canonical import Digest, JsonValue, digest_bytes, digest_json, digest_tree
from pipeline.channel import LockedFile
from pipeline.errors import ToolError
from pipeline.lab.assemble import Product
from pipeline.lab.code import code_digest
from pipeline.lab.convert import lay_files
from pipeline.lab.deb import DEB_ARCH, open_verified, read_control
from pipeline.lab.tree import Tree, matcher
from pipeline.rootform import one_form

Debs = Callable[[LockedFile], Path]
"""Where a locked Debian package is."""

_PYTHON = ("/usr/lib",)
_SECONDS = 1800
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/lintian/*")
# Made anew or copied from this machine in every run: names, logs, caches, backups of account files.
_LEFT_OUT = (
    "dev/**",
    "etc/*-",
    "etc/apt/**",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "tmp/**",
    "var/cache/**",
    "var/lib/apt/**",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/systemd/**",
    "var/log/**",
)
_PATTERN = matcher(_LEFT_OUT)
_FOLDERS = {"dev": 0o755, "tmp": 0o1777, "var/cache": 0o755, "var/log": 0o755}
_HINT = "apt-get install mmdebstrap (run as root, or allow unprivileged user namespaces)"


@dataclass(frozen=True, slots=True)
class BuilderPlan:
    """What goes into a builder."""

    channel: str
    arch: str
    suite: str
    epoch: int
    wanted: tuple[str, ...]
    """Debian packages by name; the lock holds them and all that they need."""
    packages: tuple[LockedFile, ...]
    overlays: tuple[Product, ...]
    """Packages of the lab whose files are laid over."""
    drop: tuple[str, ...]
    checkout: Path

    def key(self) -> Digest:
        """Names the builder's content before it is built."""
        folders: dict[str, JsonValue] = {}
        for product in self.overlays:
            definition = product.definition
            sources = sorted(definition.sources.items()) if definition else []
            folders[product.name] = {
                "folder": definition.digest if definition else "",
                "debs": [deb.sha256 for deb in product.debs],
                "sources": {place: digest_tree(self.checkout / source) for place, source in sources},
            }
        return digest_json(
            {
                "code": code_digest("pipeline.lab.builder"),
                "channel": self.channel,
                "arch": self.arch,
                "suite": self.suite,
                "epoch": self.epoch,
                "wanted": list(self.wanted),
                "packages": [[deb.name, deb.version, deb.sha256] for deb in self.packages],
                "overlays": folders,
                "drop": list(self.drop),
            }
        )


def is_left_out(path: str) -> bool:
    """Whether the builder's root is better without it."""
    return _PATTERN.fullmatch(path) is not None


def make_root(plan: BuilderPlan, debs: Debs, output: Path, scratch: Path, log: IO[bytes]) -> None:
    """Write the builder's root as a tar: equal plans give equal bytes."""
    offered = scratch / "offered"
    offered.mkdir()
    _offer(plan, debs, offered)
    overlay, plain = scratch / "overlay.tar", scratch / "plain.tar"
    _write_overlay(plan, debs, overlay, scratch / "overlay")
    argv = [
        "mmdebstrap",
        "--variant=essential",
        "--format=tar",
        f"--architectures={DEB_ARCH[plan.arch]}",
        f"--include={','.join(plan.wanted)}",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=APT::Sandbox::User root",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        f"--customize-hook=tar-in {shlex.quote(str(overlay))} /",
        # Stages run with a read-only root: byte code that is not there now is made anew at every start of Python.
        f'--customize-hook=chroot "$1" python3 -m compileall -q -f --invalidation-mode unchecked-hash {" ".join(_PYTHON)}',
        plan.suite,
        str(plain),
        # Trusted: every file in it has the digest that the lock says.
        f"deb [trusted=yes] copy://{quote(str(offered))} ./",
    ]
    env = {"SOURCE_DATE_EPOCH": str(plan.epoch)}
    if os.geteuid() == 0:
        # Where the next run looks for what a killed one left. Without root its user would not get in there.
        env["TMPDIR"] = str(scratch)
    try:
        proc.run(argv, env=env, timeout=_SECONDS, log=log, hint=_HINT)
    except ToolError as error:
        raise ToolError(f"builder of channel {plan.channel}: {error.message}", hint=f"read its log; {_HINT}") from error
    one_form(plain, output, plan.epoch, left_out=is_left_out, folders=_FOLDERS)


def _write_overlay(plan: BuilderPlan, debs: Debs, output: Path, folder: Path) -> None:
    """The files of the lab's tools as a tar."""
    folder.mkdir()
    tree = Tree(folder)
    for product in plan.overlays:
        lay_files(tree, product, tuple(debs(deb) for deb in product.debs), plan.drop, plan.checkout)
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as target:
        for node in tree.finish():
            info = tarfile.TarInfo(node.path)
            info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, plan.epoch
            info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[node.kind]
            info.linkname = node.target
            if node.kind == "file":
                info.size = tree.content(node.path).stat().st_size
                with tree.content(node.path).open("rb") as stream:
                    target.addfile(info, stream)
            else:
                target.addfile(info)


def _offer(plan: BuilderPlan, debs: Debs, folder: Path) -> None:
    """A flat apt repository of links to the verified downloads."""
    paragraphs = []
    for deb in plan.packages:
        path = debs(deb)
        with open_verified(path, deb.sha256) as stream:
            control = read_control(stream, f"{deb.name} {deb.version}")
        name = f"{deb.name}_{deb.sha256[:16]}.deb"
        (folder / name).symlink_to(path)
        fields = {**control.fields, "Filename": f"./{name}", "Size": str(deb.size), "SHA256": deb.sha256}
        paragraphs.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    packages = "\n".join(paragraphs).encode()
    (folder / "Packages").write_bytes(packages)
    # mmdebstrap looks for the essential packages of the suite by its name.
    sums = f"SHA256:\n {digest_bytes(packages)} {len(packages)} Packages\n"
    (folder / "Release").write_text(f"Suite: {plan.suite}\nCodename: {plan.suite}\n{sums}")
