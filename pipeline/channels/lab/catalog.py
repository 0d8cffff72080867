# SPDX-License-Identifier: Apache-2.0
"""The lab's tables: the Debian packages for each Alpine name, and the lab's own packages.

`packages/names.toml` renames, `packages/rules.toml` says what is left out everywhere, and a folder
`packages/<name>/` describes a package that needs more: files of several Debian packages, moves, own files, scripts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.apk.format.pkginfo import NOARCH
from pipeline.base.canonical import Digest, digest_tree
from pipeline.base.errors import ConfigError
from pipeline.channels.lab.deb import DEB_ARCH
from pipeline.config.toml import Problems, Table, read_toml

PACKAGES = Path(__file__).parent / "packages"
_SCRIPTS = frozenset(
    f".{kind}"
    for kind in ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-deinstall", "post-deinstall", "trigger")
)


@dataclass(frozen=True, slots=True)
class Mode:
    """Owner and group, by name, and mode of one path of a package, or of a folder that it makes."""

    path: str
    owner: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """The settings that make a package a kernel."""

    flavor: str
    device_trees: str
    """Glob of device trees, below the kernel's own folder of them, that are put into boot/; empty for none."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One folder of packages/."""

    name: str
    folder: Path
    digest: Digest
    version: str
    description: str
    arch: tuple[str, ...]
    debs: tuple[str, ...]
    stands_for: tuple[str, ...]
    drop: tuple[str, ...]
    keep: tuple[str, ...]
    only: tuple[str, ...]
    move: Mapping[str, str]
    links: Mapping[str, str]
    join: Mapping[str, str]
    directories: tuple[Mode, ...]
    modes: tuple[Mode, ...]
    sources: Mapping[str, str]
    """Files of the checkout that become part of it: place in the package -> path in the checkout."""
    depends: tuple[str, ...]
    provides: tuple[str, ...]
    replaces: tuple[str, ...]
    install_if: tuple[str, ...]
    triggers: tuple[str, ...]
    provider_priority: int
    inherit: bool
    """Whether the dependencies of its Debian packages are its own."""
    kernel: Kernel | None
    keymaps: Mapping[str, str] | None
    """Console layouts that are translated, with their new names; None if the package has none."""

    @property
    def root(self) -> Path:
        """The files that are added last."""
        return self.folder / "root"

    def scripts(self) -> dict[str, bytes]:
        """Return the install scripts and the trigger by name, such as `.post-install`. Raises ConfigError."""
        folder = self.folder / "scripts"
        found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}
        unknown = sorted(set(found) - _SCRIPTS)
        if unknown:
            raise ConfigError(f"{folder}: {', '.join(unknown)}: no such script", hint=f"known: {', '.join(sorted(_SCRIPTS))}")
        return found

    def is_for(self, arch: str) -> bool:
        """Tell whether this package exists for an architecture."""
        return arch in self.arch or NOARCH in self.arch

    def debs_for(self, arch: str) -> tuple[str, ...]:
        """Return its Debian packages, with `{deb_arch}` filled in."""
        return tuple(name.replace("{deb_arch}", DEB_ARCH[arch]) for name in self.debs)


@dataclass(frozen=True, slots=True)
class Base:
    """Alpine's own packages: no Debian package may have their names or the names of their commands."""

    names: frozenset[str] = frozenset()
    commands: tuple[str, ...] = ()
    """Sorted."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All tables, and Alpine's own packages beside them."""

    digest: Digest
    folders: Mapping[str, Definition]
    names: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...]
    left_out: tuple[str, ...]
    drop: tuple[str, ...]
    base: Base = Base()

    @property
    def standing(self) -> frozenset[str]:
        """Debian packages that apt takes for installed: something of the lab is in their place, or nothing needs to be."""
        return frozenset(self.ignored).union(*(definition.stands_for for definition in self.folders.values()))

    @property
    def absent(self) -> frozenset[str]:
        """Debian packages that no dependency of a converted package names."""
        return self.standing | frozenset(self.left_out)

    def expand(self, world: Iterable[str], arch: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return `(folders, Debian packages)` for a world, including dependencies of folders, and folders by install_if."""
        folders: set[str] = set()
        debs: set[str] = set()
        todo = [name for name in map(base_name, world) if name]
        while todo:
            name = todo.pop()
            definition = self.folders.get(name)
            if name in self.base.names:
                pass
            elif definition is None:
                debs.update(self.names.get(name, (name,)))
            elif name not in folders and definition.is_for(arch):
                folders.add(name)
                debs.update(definition.debs_for(arch))
                todo.extend(filter(None, map(base_name, definition.depends)))
            if not todo:
                todo = self._called_in(folders, debs, arch)
        return frozenset(folders), frozenset(debs)

    def _called_in(self, folders: Collection[str], debs: Collection[str], arch: str) -> list[str]:
        """Return the folders, not among `folders`, whose install_if is fulfilled."""

        def is_there(name: str) -> bool:
            return (
                name in folders
                or name in self.base.names
                or (name not in self.folders and all(deb in debs for deb in self.names.get(name, (name,))))
            )

        return [
            name
            for name, definition in self.folders.items()
            if definition.install_if and name not in folders and definition.is_for(arch)
            if all(is_there(base_name(wanted)) for wanted in definition.install_if)
        ]


def base_name(wanted: str) -> str:
    """Return the name in a world's or dependency's entry; "" for conflicts and for what files provide (`so:`, `cmd:`)."""
    name = re.split(r"[<>=~@]", wanted, maxsplit=1)[0]
    return "" if name.startswith(("!", "so:", "cmd:", "pc:", "/")) else name


def read_catalog(folder: Path = PACKAGES) -> Catalog:
    """Read all tables. Raises a ConfigError that lists every mistake."""
    problems = Problems()
    shown = folder.name
    names_table = read_toml(folder / "names.toml", problems, shown=f"{shown}/names.toml")
    names = {name: names_table.strings(name) for name in names_table}
    names_table.close()
    rules = read_toml(folder / "rules.toml", problems, shown=f"{shown}/rules.toml")
    ignored, left_out, drop = rules.strings("ignored"), rules.strings("left_out", ()), rules.strings("drop")
    rules.close()
    folders = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (path / "package.toml").is_file():
            folders[path.name] = _read_definition(path, problems)
        else:
            problems.add(f"{shown}/{path.name}", "has no package.toml")
    for name in sorted(set(folders) & set(names)):
        problems.add(f"{shown}/names.toml: {name}", f"has a folder {shown}/{name}/ too")
    problems.check("lab packages")
    return Catalog(digest_tree(folder), folders, names, ignored, left_out, drop)


def _read_definition(folder: Path, problems: Problems) -> Definition:
    table = read_toml(folder / "package.toml", problems, shown=f"packages/{folder.name}/package.toml")
    found = Definition(
        name=folder.name,
        folder=folder,
        digest=digest_tree(folder),
        version=table.text("version", ""),
        description=table.text("description"),
        arch=table.strings("arch", ("x86_64", "aarch64")),
        debs=table.strings("from", ()),
        stands_for=table.strings("stands_for", ()),
        drop=table.strings("drop", ()),
        keep=table.strings("keep", ()),
        only=table.strings("only", ()),
        move=table.mapping("move"),
        links=table.mapping("links"),
        join=table.mapping("join"),
        directories=tuple(_read_mode(row, "0755") for row in table.tables("directories")),
        modes=tuple(_read_mode(row) for row in table.tables("modes")),
        sources=table.mapping("sources"),
        depends=table.strings("depends", ()),
        provides=table.strings("provides", ()),
        replaces=table.strings("replaces", ()),
        install_if=table.strings("install_if", ()),
        triggers=table.strings("triggers", ()),
        provider_priority=table.integer("provider_priority", 0),
        inherit=table.boolean("inherit", True),
        kernel=_read_kernel(table.table("kernel")) if "kernel" in table else None,
        keymaps=table.mapping("keymaps") if "keymaps" in table else None,
    )
    table.close()
    for wanted in found.install_if:
        if not base_name(wanted):
            table.problem("install_if", f"{wanted!r}: only names of packages are understood here")
    if not found.debs and not found.version:
        table.problem("version", "missing; a package without Debian packages behind it needs one")
    return found


def _read_kernel(table: Table) -> Kernel:
    return Kernel(table.text("flavor"), table.text("device_trees", ""))


def _read_mode(table: Table, default: str = "") -> Mode:
    text = table.text("mode", default) if default else table.text("mode")
    if not re.fullmatch("[0-7]{3,4}", text):
        table.problem("mode", f'must be octal digits in quotes like "0644", not {text!r}')
        text = "0"
    return Mode(table.text("path"), table.text("owner", "root"), table.text("group", "root"), int(text, 8))
