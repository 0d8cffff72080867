# SPDX-License-Identifier: Apache-2.0
"""Which code a result depends on, derived from the code: a module, and all that it imports of the factory.

Every import counts, at the top of a module and inside a function alike, and so do those of what is imported. Not
counted are imports under `if TYPE_CHECKING:`, which never run, and those of `LEFT_OUT`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline.base.canonical import Digest, digest_file, digest_json

_ROOT = Path(__file__).parents[2]
LEFT_OUT = {"pipeline.base.streams": frozenset({"pipeline.base.refused"})}
"""What a module imports that no result depends on: `refused` words the error that ends a command."""


@cache
def code_digest(*modules: str) -> Digest:
    """Digest of the sources of `modules` (dotted names) and of every module of the factory that they import."""
    found: dict[str, Digest] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = _source(name)
        if path is not None and name not in found:
            found[name] = digest_file(path)
            todo += _imports(path, name)
    return digest_json(dict(found.items()))


def imported_by(module: str) -> frozenset[str]:
    """The modules of the factory that `module` imports itself."""
    path = _source(module)
    return frozenset(name for name in _imports(path, module) if _source(name)) if path else frozenset()


def _source(name: str) -> Path | None:
    base = _ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path, module: str) -> list[str]:
    package = module.partition(".")[0]
    names: list[str] = []
    for node in _that_run(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    left_out = LEFT_OUT.get(module, frozenset())
    return [name for name in names if name.partition(".")[0] == package and name not in left_out]


def _that_run(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and all below it, without the bodies of `if TYPE_CHECKING:`."""
    yield node
    only_types = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    for child in node.orelse if only_types and isinstance(node, ast.If) else ast.iter_child_nodes(node):
        yield from _that_run(child)
