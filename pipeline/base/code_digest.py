# SPDX-License-Identifier: Apache-2.0
"""The code that a result depends on, derived from the code: a module, and every module of the factory that it imports.

All imports count, at the top of a module and inside a function, and those of the imported modules. Only imports under
`if TYPE_CHECKING:`, which never run, and those in `LEFT_OUT` do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, digest_bytes, digest_json

_ROOT = Path(__file__).parents[2]
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
"""The fields of a syntax tree's nodes that hold statements, or nodes with statements."""
LEFT_OUT = {"pipeline.base.streams": frozenset({"pipeline.base.refused"})}
"""Imports that no result depends on: `refused` words the error that ends a command."""


@cache
def code_digest(*modules: str) -> Digest:
    """Return the digest of the sources of `modules` (dotted names) and of every module of the factory that they import."""
    found: dict[str, Digest] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = None if name in found else _source(name)
        if path is not None:
            text = read_regular(path)
            found[name] = digest_bytes(text)
            todo += _imports(text, name)
    return digest_json(dict(found.items()))


def imported_by(module: str) -> frozenset[str]:
    """Return the modules of the factory that `module` itself imports."""
    path = _source(module)
    return frozenset(name for name in _imports(read_regular(path), module) if _source(name)) if path else frozenset()


def _source(name: str) -> Path | None:
    base = _ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(text: bytes, module: str) -> list[str]:
    package, left_out = module.partition(".")[0], LEFT_OUT.get(module, frozenset())
    return [name for name in _named(text) if name.partition(".")[0] == package and name not in left_out]


@cache
def _named(text: bytes) -> tuple[str, ...]:
    """Return all names that a source may import; cached, since digests share most modules, and parsing is slow."""
    names: list[str] = []
    for node in _that_run(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _that_run(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield all statements below `node`, except the bodies of `if TYPE_CHECKING:`. Expressions hold no statements."""
    only_types = isinstance(node, ast.If) and _is_for_types(node.test)
    for field in _BLOCKS if not only_types else ("orelse",):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.stmt):
                yield child
            yield from _that_run(child)


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
