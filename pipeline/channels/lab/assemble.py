# SPDX-License-Identifier: Apache-2.0
"""Turn locked Debian packages and the tables into the list of a repository's `.apk` packages, each with its job.

A job holds everything that one conversion depends on, so its digest names the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.canonical import Digest, JsonValue, digest_json, digest_tree
from pipeline.base.code_digest import code_digest
from pipeline.base.errors import ConfigError
from pipeline.channels.lab.catalog import Catalog, Definition, base_name
from pipeline.channels.lab.deb import Control
from pipeline.channels.lab.debian_version import alpine_version
from pipeline.supply.lock import LockedFile


@dataclass(frozen=True, slots=True)
class Product:
    """One package to be made: its Debian packages, and its folder if it has one."""

    name: str
    arch: str
    debs: tuple[LockedFile, ...]
    definition: Definition | None = None
    aliases: tuple[str, ...] = ()
    """Further names that it provides."""
    parts: tuple[str, ...] = ()
    """Debian packages that an empty package depends on, nothing else."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One conversion."""

    product: Product
    version: str
    description: str
    commit: str
    origin: str
    url: str
    maintainer: str
    depends: tuple[str, ...]
    provides: tuple[str, ...]
    drop: tuple[str, ...]
    epoch: int
    tools: str
    """Version of this machine's program that is used, for kernels and keymaps."""
    taken: tuple[str, ...] = ()
    """Commands of the base: a program with such a name is left out."""

    def document(self, checkout: Path) -> JsonValue:
        """Return everything that the conversion's result depends on, as JSON."""
        definition = self.product.definition
        sources = definition.sources if definition else {}
        return {
            "code": code_digest("pipeline.channels.lab.convert"),
            "name": self.product.name,
            "arch": self.product.arch,
            "debs": [[deb.name, deb.version, deb.sha256] for deb in self.product.debs],
            "folder": definition.digest if definition else "",
            "sources": {place: digest_tree(checkout / source) for place, source in sorted(sources.items())},
            "fields": [self.version, self.description, self.commit, self.origin, self.url, self.maintainer],
            "depends": list(self.depends),
            "provides": list(self.provides),
            "drop": list(self.drop),
            "epoch": self.epoch,
            "tools": self.tools,
            "taken": list(self.taken),
        }

    def key(self, checkout: Path) -> Digest:
        """Return the key of the conversion's result."""
        return digest_json(self.document(checkout))


def select(catalog: Catalog, locked: Iterable[LockedFile], world: Iterable[str], arch: str) -> list[Product]:
    """Return the packages to make of `locked`, sorted by name.

    A Debian package goes to the folder that names it, else it gets its Alpine name, else it keeps its own.
    Raises ConfigError if two folders want the same Debian package as a whole.
    """
    by_name = {deb.name: deb for deb in locked}
    folders = claimed(catalog, by_name, world, arch)
    products: list[Product] = []
    owner: dict[str, str] = {}
    for name in sorted(folders):
        definition = catalog.folders[name]
        debs = tuple(by_name[deb] for deb in members(definition, by_name, arch) if deb in by_name)
        for deb in debs:
            # Kernels may share their files, and so may packages that each use a part of them.
            if owner.setdefault(deb.name, name) != name and definition.kernel is None and not definition.only:
                raise ConfigError(
                    f"packages/{name}: {deb.name} belongs to packages/{owner[deb.name]} already", hint="name it in one of them"
                )
        products.append(Product(name, arch, debs, definition))
    rename = _renames(catalog.names)
    for deb in sorted(by_name.values()):
        if deb.name not in owner:
            names = rename.get(deb.name, ())
            name, aliases = (names[0], (deb.name,)) if len(names) == 1 else (deb.name, names)
            if name in catalog.base.names:
                raise ConfigError(
                    f"Debian's {deb.name} would have the name of Alpine's own {name}",
                    hint="give it another name in packages/names.toml, or add it to `ignored` in packages/rules.toml",
                )
            aliases = tuple(alias for alias in aliases if alias not in catalog.base.names)
            products.append(Product(name, arch, (deb,), None, tuple(alias for alias in aliases if alias != name)))
    taken = {product.name for product in products}
    for name, debs_wanted in sorted(catalog.names.items()):
        if len(debs_wanted) > 1 and name not in taken | catalog.base.names and all(deb in by_name for deb in debs_wanted):
            products.append(Product(name, arch, (), None, (), debs_wanted))
    return sorted(products, key=lambda product: product.name)


def claimed(catalog: Catalog, by_name: Mapping[str, object], world: Iterable[str], arch: str) -> frozenset[str]:
    """Return the folders that take part: those that the world names, and those whose Debian packages are there."""
    claims = {
        name
        for name, definition in catalog.folders.items()
        if definition.kernel is None and arch in definition.arch and any(deb in by_name for deb in definition.debs_for(arch))
    }
    called = {base_name(wanted) for definition in catalog.folders.values() for wanted in definition.install_if}
    plain = {
        name
        for name in called - set(catalog.folders) - catalog.base.names
        if all(deb in by_name for deb in catalog.names.get(name, (name,)))
    }
    return catalog.expand([*world, *claims, *plain], arch)[0]


def members(definition: Definition, by_name: Mapping[str, object], arch: str) -> tuple[str, ...]:
    """Return the Debian packages of a folder; for a kernel, also the versioned one that its meta package depends on."""
    names = definition.debs_for(arch)
    if definition.kernel is None:
        return names
    found = []
    for name in names:
        prefix, dash, flavor = name.partition("linux-image-")
        versioned = re.compile(re.escape(f"{prefix}{dash}") + r"\d[^-]*-" + re.escape(flavor))
        found += [candidate for candidate in sorted(by_name) if versioned.fullmatch(candidate)] or [name]
    return (*names, *(name for name in found if name not in names))


def _renames(names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, debs in sorted(names.items()):
        if len(debs) == 1:
            found[debs[0]] = (*found.get(debs[0], ()), name)
    return found


def make_jobs(
    catalog: Catalog, products: list[Product], controls: Mapping[str, Control], epoch: int, tools: Mapping[str, str]
) -> list[Conversion]:
    """Return a job for every product; `controls` are the control files of all Debian packages by name.

    Raises ConfigError if no product fulfils a dependency.
    """
    providers = _providers(products, controls)
    return [_job(catalog, product, controls=controls, providers=providers, epoch=epoch, tools=tools) for product in products]


def _providers(products: list[Product], controls: Mapping[str, Control]) -> dict[str, str]:
    """Map each Debian package, and each virtual one, to the product that provides it."""
    real: dict[str, str] = {}
    virtual: dict[str, str] = {}
    for product in products:
        for deb in product.debs:
            real.setdefault(deb.name, product.name)
            for (name,) in controls[deb.name].relations("Provides"):
                virtual.setdefault(name, product.name)
    return {**virtual, **real}


def _job(
    catalog: Catalog,
    product: Product,
    *,
    controls: Mapping[str, Control],
    providers: Mapping[str, str],
    epoch: int,
    tools: Mapping[str, str],
) -> Conversion:
    definition = product.definition
    main = controls[product.debs[0].name] if product.debs else None
    if product.parts:
        main = controls[product.parts[0]]
    debian = main.version if main else ""
    version = (definition.version if definition else "") or alpine_version(debian)
    depends = set(definition.depends if definition else ())
    depends |= {providers[part] for part in product.parts}
    if definition is None or definition.inherit:
        for deb in product.debs:
            depends |= _mapped(controls[deb.name], catalog.absent, providers)
    provides = {f"{alias}={version}" for alias in product.aliases} | set(definition.provides if definition else ())
    description = definition.description if definition else _summary(main)
    return Conversion(
        product=product,
        version=version,
        description=description,
        commit=debian,
        origin=re.split(r"[\s(]", main.fields.get("Source", main.name), maxsplit=1)[0] if main else product.name,
        url=main.fields.get("Homepage", "") if main else "",
        maintainer=main.fields.get("Maintainer", "") if main else "",
        depends=tuple(sorted(depends - {product.name})),
        provides=tuple(sorted(provides)),
        drop=catalog.drop,
        epoch=epoch,
        tools=_tools_of(definition, tools),
        taken=catalog.base.commands,
    )


def _tools_of(definition: Definition | None, tools: Mapping[str, str]) -> str:
    if definition is not None and definition.kernel is not None:
        return tools.get("depmod", "")
    return tools.get("loadkeys", "") if definition is not None and definition.keymaps is not None else ""


def _summary(control: Control | None) -> str:
    """Return the first line of a Debian package's description."""
    return control.fields.get("Description", "").splitlines()[0].strip() if control and control.fields.get("Description") else ""


def _mapped(control: Control, absent: frozenset[str], providers: Mapping[str, str]) -> set[str]:
    """Return Debian's dependencies in our names, without those that the lab replaces."""
    found = set()
    for group in control.relations("Pre-Depends", "Depends"):
        if any(name in absent for name in group):
            continue
        answer = next((providers[name] for name in group if name in providers), "")
        if not answer:
            raise ConfigError(
                f"{control.name} {control.version}: nothing fulfils its dependency {' | '.join(group)}",
                hint="add the package to `ignored` in pipeline/channels/lab/packages/rules.toml, or lock again",
            )
        found.add(answer)
    return found
