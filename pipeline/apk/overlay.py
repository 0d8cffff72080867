# SPDX-License-Identifier: Apache-2.0
"""Make a package (.apk) of overlays: trees that mirror / on the device, with a table of owners and modes.

Modes come from the table, not from the checkout, where umask and file systems change them. Stages run
this as `python3 -m pipeline.apk.overlay`; it imports only the standard library and `pipeline.apk`.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import string
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.apk.format.package import Source, TarEntry, write_package
from pipeline.apk.format.pkginfo import NOARCH, PkgInfo
from pipeline.base.errors import ConfigError, FactoryError

TEMPLATES = ("etc/issue", "etc/os-release")
"""The suffix of files in which ${version} and the like are filled in."""

IDS: Mapping[str, int] = {"root": 0, "shadow": 42, "wheel": 10}
"""Owners and groups that the table may name, with Alpine's fixed numbers."""

_KEYS = {"path", "mode", "owner", "group"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: owner and mode of the files that match the glob `path`."""

    path: str
    mode: int
    owner: str
    group: str
    pattern: re.Pattern[str]

    def fits(self, name: str) -> bool:
        """Tell whether the row applies to `name`, a path without a leading slash; both end in a slash for a folder."""
        return name.endswith("/") == self.path.endswith("/") and self.pattern.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Item:
    """One file, folder or link of the overlays, with its path in the checkout and its row."""

    name: str
    source: Path
    rule: Rule | None

    @property
    def is_file(self) -> bool:
        """Tell whether it is a regular file."""
        return self.source.is_file() and not self.source.is_symlink()


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read the table of owners and modes. Raises a ConfigError that lists every mistake in it."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("rules", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    rules: list[Rule] = []
    mistakes: list[str] = []
    for place, row in enumerate(rows):
        where = f"rules[{place}]"
        mistakes += [f"{where}.{key}: unknown key" for key in sorted(set(row) - _KEYS)]
        glob, mode = str(row.get("path", "")), str(row.get("mode", ""))
        owner, group = str(row.get("owner", "root")), str(row.get("group", "root"))
        if not glob or glob.startswith("/"):
            mistakes.append(f"{where}.path: must be a glob without a leading slash, not {glob!r}")
        if not re.fullmatch("[0-7]{4}", mode):
            mistakes.append(f"{where}.mode: must be four octal digits in quotes, not {mode!r}")
            continue
        mistakes += [f"{where}: {name!r} is none of {', '.join(IDS)}" for name in (owner, group) if name not in IDS]
        rules.append(Rule(glob, int(mode, 8), owner, group, _pattern(glob)))
    if mistakes:
        raise ConfigError("\n  ".join([f"{path.name}: {len(mistakes)} mistakes", *mistakes]))
    return tuple(rules)


def _pattern(glob: str) -> re.Pattern[str]:
    """Compile a glob: `*` stays inside a folder, `**` does not."""
    parts = (".*" if part == "**" else "[^/]*" if part == "*" else re.escape(part) for part in re.split(r"(\*+)", glob))
    return re.compile("".join(parts))


def collect(trees: Sequence[Path], rules: Sequence[Rule]) -> tuple[Item, ...]:
    """Return the items of the trees, later trees over earlier ones, sorted by name.

    Raises a ConfigError that names every file to which no row applies.
    """
    found: dict[str, Item] = {}
    for tree in trees:
        for source in _walk(tree):
            name = source.relative_to(tree).as_posix()
            shown = name + "/" * (source.is_dir() and not source.is_symlink())
            found[name] = Item(name, source, next((rule for rule in rules if rule.fits(shown)), None))
    missing = sorted(item.name for item in found.values() if item.rule is None and item.is_file)
    if missing:
        raise ConfigError(f"overlays: no owner and mode for {', '.join(missing)}", hint="add a row to overlays/owners.toml")
    return tuple(found[name] for name in sorted(found))


def _walk(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.iterdir()):
        if not fnmatch.fnmatch(path.name, "*~") and path.name != "__pycache__":
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path)


def entries(items: Sequence[Item], values: Mapping[str, str]) -> Iterator[tuple[TarEntry, Source]]:
    """Yield the items as entries of a package, with `values` filled into the templates."""
    for item in items:
        rule = item.rule
        owner, group = (rule.owner, rule.group) if rule else ("root", "root")
        ids = {"uid": IDS[owner], "gid": IDS[group], "uname": owner, "gname": group}
        if item.source.is_symlink():
            yield TarEntry(item.name, "symlink", 0o777, target=str(item.source.readlink())), None
        elif item.source.is_dir():
            yield TarEntry(item.name, "dir", rule.mode if rule else 0o755, **ids), None  # type: ignore[arg-type]
        elif rule is not None:
            content: Source = item.source
            if item.name in TEMPLATES:
                content = fill(item, values)
            yield TarEntry(item.name, "file", rule.mode, **ids), content  # type: ignore[arg-type]


def fill(item: Item, values: Mapping[str, str]) -> bytes:
    """Fill `values` into a template. Raises ConfigError if it asks for an unknown one."""
    try:
        return string.Template(item.source.read_text(encoding="utf-8")).substitute(values).encode()
    except (KeyError, ValueError) as error:
        raise ConfigError(f"overlays: {item.name}: {error}", hint=f"known: {', '.join(sorted(values))}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Pack overlays."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pipeline.apk.overlay",
        description="Pack overlays as an Alpine package, unsigned.",
        epilog="example: python3 -m pipeline.apk.overlay --owners overlays/owners.toml --name toweros-host --version 0.1.0-r0 "
        "--output toweros-host.apk overlays/common overlays/host",
    )
    parser.add_argument("trees", nargs="+", type=Path, metavar="TREE", help="overlay; later ones win")
    parser.add_argument("--owners", type=Path, required=True, help="table of owners and modes")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--description", default="")
    parser.add_argument("--depends", nargs="*", default=[], help="packages that it needs")
    parser.add_argument("--replaces", nargs="*", default=[], help="packages whose files it may take over")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="value for the templates")
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    info = PkgInfo(
        name=args.name,
        version=args.version,
        arch=NOARCH,
        description=args.description,
        license="Apache-2.0",
        origin="toweros",
        depends=tuple(args.depends),
        replaces=tuple(args.replaces),
    )
    try:
        items = collect(args.trees, read_rules(args.owners))
        values = dict(pair.split("=", 1) for pair in args.set)
        with args.output.open("wb") as out:
            write_package(out, info, {}, entries(items, values), epoch=args.epoch)
    except FactoryError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(f"{args.output.name}: {len(items)} entries\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
