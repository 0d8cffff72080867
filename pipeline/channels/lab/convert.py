# SPDX-License-Identifier: Apache-2.0
"""One conversion: the files of Debian packages, reshaped by the tables, packed as an unsigned `.apk`.

It runs in a process of its own; the job has everything that it needs. The package's folder says what is dropped, moved
and added; scripts of Debian packages never run, so a table's `links` and `join` replace their results.
"""

from __future__ import annotations

import fnmatch
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pipeline.apk.format.package import TarEntry, write_package
from pipeline.apk.format.pkginfo import NOARCH, PkgInfo
from pipeline.apk.format.writer import Source
from pipeline.base.errors import ConfigError
from pipeline.base.recorded import RecordedCache
from pipeline.channels.lab.assemble import Conversion
from pipeline.channels.lab.beside import drop_commands, lay_loader, unmerge
from pipeline.channels.lab.catalog import Definition
from pipeline.channels.lab.deb import open_verified, unpack
from pipeline.channels.lab.kernel import lay_kernel
from pipeline.channels.lab.keymaps import lay_keymaps
from pipeline.channels.lab.package_tree import LEVEL, Node, PackageTree, matcher
from pipeline.channels.lab.scan import Scan, scan

_KINDS: Mapping[str, str] = {"file": "file", "dir": "dir", "link": "symlink"}
_SPECIAL_BITS = 0o6000


@dataclass(frozen=True, slots=True)
class Converted:
    """The results of a conversion, beside the package."""

    name: str
    special: tuple[str, ...]
    """Files with setuid or setgid bits, as `mode path`."""


def convert(job: Conversion, debs: tuple[Path, ...], checkout: Path, scratch: Path, output: Path) -> Converted:
    """Write the unsigned package of `job` to `output`, with its record; `debs` are its Debian packages, in the job's order."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, tempfile.TemporaryFile(dir=folder) as contents:
        tree = PackageTree(contents)
        lay_files(tree, job, debs, checkout, Path(folder))
        drop_commands(tree, job.taken)
        found = scan(tree, job.product.arch, job.version)
        nodes = tree.finish()
        definition = job.product.definition
        scripts = definition.scripts() if definition else {}
        made = Path(folder) / "made.apk"
        with made.open("wb") as out:
            write_package(out, _info(job, found, definition), scripts, _entries(tree, nodes), epoch=job.epoch, level=LEVEL)
        RecordedCache(output.parent, report=lambda _: None).keep(output.name, made)
    special = tuple(f"{node.mode:04o} {node.path}" for node in nodes if node.kind == "file" and node.mode & _SPECIAL_BITS)
    return Converted(job.product.name, special)


def _entries(tree: PackageTree, nodes: list[Node]) -> Iterator[tuple[TarEntry, Source]]:
    for node in nodes:
        names = {"uname": node.user if node.uid == 0 else "", "gname": node.group if node.gid == 0 else ""}
        entry = TarEntry(node.path, _KINDS[node.kind], node.mode, node.uid, node.gid, target=node.target, **names)  # type: ignore[arg-type]
        yield entry, (partial(_open, tree, node.path) if node.kind == "file" else None)


def _open(tree: PackageTree, path: str) -> io.BytesIO:
    return io.BytesIO(tree.content(path))


def _info(job: Conversion, found: Scan, definition: Definition | None) -> PkgInfo:
    own = {item.partition("=")[0] for item in job.provides}
    return PkgInfo(
        name=job.product.name,
        version=job.version,
        arch=NOARCH if definition and definition.arch == (NOARCH,) else job.product.arch,
        description=" ".join(job.description.split()),
        url=job.url,
        license="",
        origin=job.origin,
        maintainer=" ".join(job.maintainer.split()),
        commit=job.commit,
        depends=tuple(sorted({*job.depends, *found.depends})),
        provides=tuple(sorted({*job.provides, *(item for item in found.provides if item.partition("=")[0] not in own)})),
        install_if=definition.install_if if definition else (),
        replaces=definition.replaces if definition else (),
        triggers=definition.triggers if definition else (),
        provider_priority=(definition.provider_priority or None) if definition else None,
    )


def lay_files(tree: PackageTree, job: Conversion, debs: tuple[Path, ...], checkout: Path, scratch: Path) -> None:
    """Put all files of the job's product into `tree`; `scratch` is an empty folder for programs that take files."""
    product = job.product
    for locked, path in zip(product.debs, debs, strict=True):
        with open_verified(path, locked.sha256) as stream:
            unpack(stream, f"{locked.name} {locked.version}", tree)
    unmerge(tree)
    lay_loader(tree, product.arch)
    definition = product.definition
    if definition is None:
        _drop(tree, job.drop, (), ())
        return
    if definition.kernel is not None:
        lay_kernel(tree, definition.kernel, scratch)
    if definition.keymaps is not None:
        lay_keymaps(tree, definition.keymaps, scratch)
    _drop(tree, (*job.drop, *definition.drop), definition.keep, definition.only)
    _move(tree, definition)
    for place, pattern in definition.join.items():
        _join(tree, definition, place, pattern)
    for place, target in definition.links.items():
        tree.add(Node(place, "link", 0o777, target=target))
    for place, source in definition.sources.items():
        _lay(tree, checkout / source, place)
    if definition.root.is_dir():
        _lay(tree, definition.root, "")
    _set_modes(tree, definition)


def _nothing(definition: Definition, key: str, path: str) -> ConfigError:
    file = f"packages/{definition.name}/package.toml"
    return ConfigError(f"{file}: {key}: there is no {path!r}", hint="look at the package's files")


def _drop(tree: PackageTree, patterns: tuple[str, ...], keep: tuple[str, ...], only: tuple[str, ...]) -> None:
    dropped, kept, wanted = matcher(patterns), matcher(keep), matcher(only or ("**",))
    for path in list(tree.nodes):
        if not kept.fullmatch(path) and (dropped.fullmatch(path) or not wanted.fullmatch(path)):
            tree.remove(path)


def _move(tree: PackageTree, definition: Definition) -> None:
    """Move entries: each key names a file or a pattern; a target with a trailing slash is a folder; a folder moves as a whole."""
    for source, target in definition.move.items():
        found = [path for path, node in tree.nodes.items() if node.kind != "dir" and matcher((source,)).fullmatch(path)]
        below = [path for path, node in tree.nodes.items() if node.kind != "dir" and path.startswith(f"{source}/")]
        if not found and not below:
            raise _nothing(definition, "move", source)
        for path in found:
            tree.rename(path, target + PurePosixPath(path).name if target.endswith("/") else target)
        for path in below:
            tree.rename(path, target.rstrip("/") + path[len(source) :])


def _join(tree: PackageTree, definition: Definition, place: str, pattern: str) -> None:
    """Make `place` the concatenation of all files that match `pattern`."""
    paths = [node.path for node in tree.files() if fnmatch.fnmatchcase(node.path, pattern)]
    if not paths:
        raise _nothing(definition, "join", pattern)
    joined = (content if content.endswith(b"\n") else content + b"\n" for content in map(tree.content, paths))
    tree.add_file(Node(place, "file", 0o644), io.BytesIO(b"".join(joined)))


def _lay(tree: PackageTree, source: Path, place: str) -> None:
    """Add a file or folder of the checkout; of modes only the execute bit counts, as in git."""
    if source.is_symlink():
        tree.add(Node(place, "link", 0o777, target=str(source.readlink())))
    elif source.is_dir():
        for item in sorted(source.iterdir()):
            if item.name != "__pycache__" and not item.name.endswith((".pyc", "~", ".swp")):
                _lay(tree, item, f"{place}/{item.name}".lstrip("/"))
    elif source.is_file():
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        with source.open("rb") as stream:
            tree.add_file(Node(place, "file", mode), stream)
    else:
        raise ConfigError(f"{source}: no such file", hint=f"it is wanted at {place!r} in a lab package")


def _set_modes(tree: PackageTree, definition: Definition) -> None:
    for row in definition.directories:
        tree.add(Node(row.path, "dir", row.mode, user=row.owner, group=row.group))
    for row in definition.modes:
        node = tree.nodes.get(row.path)
        if node is None:
            raise _nothing(definition, "modes", row.path)
        tree.nodes[row.path] = Node(node.path, node.kind, row.mode, 0, 0, node.target, row.owner, row.group)
