# SPDX-License-Identifier: Apache-2.0
"""Which code a result depends on, derived from the code: a module, and all that it imports of the factory.

Imports at the top of a module count, and those of what they import. An import inside a function does not: it is there
because most callers do not need it (the channel's driver, the container engine).
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from pipeline.base.canonical import Digest, digest_file, digest_json

_ROOT = Path(__file__).parents[2]


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
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.partition(".")[0] == package]
