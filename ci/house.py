# SPDX-License-Identifier: Apache-2.0
"""The picture of the house in CONTRIBUTING.md, made from the real imports: `python ci/house.py` prints it.

    python ci/house.py          print the picture
    python ci/house.py --write  put it into CONTRIBUTING.md, between its two marks

Exit status 0. `tests/lint/test_house.py` uses the same functions: a folder imports only from folders above it in the list,
no modules import each other in a circle, and no two classes or modules of a package share a name.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
ORDER: Final = {
    "pipeline": (
        "base", "formats", "apk", "config", "supply", "store", "sandbox", "channels", "plan", "build", "light", "images",
        "release", "sim", "cli",
    ),
    "runtime": (
        "base", "hosts", "image", "disk", "ssh", "display", "clipboard", "windows", "menu", "provision", "install", "upgrade",
        "installer", "status", "audit", "cli",
    ),
}  # fmt: skip
"""The folders of each package, from the bottom up."""
_IMPORTED_AS: Final = {"pipeline": "pipeline", "runtime": "tower"}
_BEGIN, _END = "<!-- made by ci/house.py -->\n", "<!-- end -->\n"
_OF_DEVICES: Final = "pipeline/channels/lab/packages"
"""Trees that are laid into packages: programs of the device."""


def modules(package: str) -> dict[str, Path]:
    """The files of a package by dotted name without the package's own: `base.errors`; a folder has the name of its own."""
    found = {}
    for path in sorted((CHECKOUT / package).rglob("*.py")):
        if not path.is_relative_to(CHECKOUT / _OF_DEVICES):
            name = ".".join(path.relative_to(CHECKOUT / package).with_suffix("").parts)
            found[name.removesuffix("__init__").rstrip(".")] = path
    return found


def imports(package: str) -> dict[str, frozenset[str]]:
    """Return what each module imports from its own package, anywhere in the file; `TYPE_CHECKING` counts, too."""
    known = modules(package)
    return {name: frozenset(_imported(path, _IMPORTED_AS[package], known)) - {name, ""} for name, path in known.items()}


def _imported(path: Path, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package.folder import module` is that module, and a name of any other kind the folder itself.
            names = [
                one if _own(one, package) in known else node.module for one in (f"{node.module}.{a.name}" for a in node.names)
            ]
        yield from (own for name in names if (own := _own(name, package)) in known)


def _own(name: str, package: str) -> str:
    return name.removeprefix(f"{package}.") if name.startswith(f"{package}.") else "-"


def upward(package: str) -> list[str]:
    """Return the imports from a folder that is further up: `config.channel imports store.gc`."""
    place = {folder: number for number, folder in enumerate(ORDER[package])}
    return [
        f"{package}: {name} imports {other}"
        for name, others in imports(package).items()
        for other in sorted(others)
        if place.get(other.partition(".")[0], -1) > place.get(name.partition(".")[0], len(place))
    ]


def circles(package: str) -> list[str]:
    """Return the modules that import each other in a circle, with the whole circle on one line."""
    graph, done = imports(package), set[str]()
    found: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return found


def shared_classes(package: str) -> dict[str, list[str]]:
    """Return the names that several classes of a package have, with the modules of these classes."""
    return _shared(
        (node.name, name)
        for name, path in modules(package).items()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef)
    )


def shared_modules(package: str) -> dict[str, list[str]]:
    """Return the names that several modules or folders of a package have, with the dotted names of these modules.

    Two cases do not count: a module that is called like its own folder, and so is the folder's main module, and a module
    of the command line that is called like the folder whose command it defines.
    """
    known = [name for name in modules(package) if name]
    return _shared(
        (last, name)
        for name in known
        for folder, _, last in [name.rpartition(".")]
        if not (folder.rpartition(".")[2] == last or (folder.partition(".")[0] == "cli" and last in (*ORDER[package], *known)))
    )


def _shared(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, place in places:
        found.setdefault(name, []).append(place)
    return {name: sorted(where) for name, where in sorted(found.items()) if len(where) > 1}


def picture() -> str:
    """Return one row per folder: its name, what it is, its modules, and which folders it uses."""
    lines = []
    for package, order in ORDER.items():
        known, uses = modules(package), imports(package)
        lines += [f"`{package}/`", "", "| folder | what it is | modules | uses |", "|---|---|---|---|"]
        for folder in order:
            own = [name for name in known if name.partition(".")[0] == folder]
            used = {other.partition(".")[0] for name in own for other in uses[name]} - {folder}
            names = " ".join(sorted({name.partition(".")[2].partition(".")[0] for name in own} - {""}))
            summary = (ast.get_docstring(ast.parse(known[folder].read_bytes())) or "").splitlines()[0]
            lines.append(f"| `{folder}/` | {summary} | {names} | {' '.join(one for one in order if one in used)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Print the picture, or write it."""
    if sys.argv[1:] not in ([], ["--write"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if not sys.argv[1:]:
        sys.stdout.write(picture())
        return 0
    path = CHECKOUT / "CONTRIBUTING.md"
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    path.write_text(f"{before}{begin}{picture()}{end}{after}")
    return 0


def written() -> str:
    """Return the picture that CONTRIBUTING.md has."""
    return (CHECKOUT / "CONTRIBUTING.md").read_text().partition(_BEGIN)[2].partition(_END)[0]


if __name__ == "__main__":
    sys.exit(main())
