# SPDX-License-Identifier: Apache-2.0
"""Which programs `tower` starts, read from its source: the first words of what goes to `tower.base.proc`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RUNTIME = Path(__file__).resolve().parents[3] / "runtime"
STARTERS = ("run", "reading", "running", "attached")
OURS = "/usr/libexec/tower/"
"""What the product's own package has."""


class UnknownError(Exception):
    """An expression whose first word cannot be told."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands: a module, and the innermost function."""

    module: str
    function: ast.FunctionDef | None


class Source:
    """The modules of `tower`, by what they define."""

    def __init__(self, root: Path = RUNTIME) -> None:
        self.trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
        self.functions: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
        self.values: dict[str, list[tuple[str, ast.expr]]] = {}
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self.functions.setdefault(node.name, []).append((module, node))
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    self.values.setdefault(node.targets[0].attr, []).append((module, node.value))
            for node in tree.body:
                for name, value in _named(node):
                    self.values.setdefault(name, []).append((module, value))

    def programs(self) -> dict[str, set[str]]:
        """Program -> where it is started. Raises UnknownError naming the place that cannot be told."""
        found: dict[str, set[str]] = {}
        for name, tree in self.trees.items():
            for call, function in _calls(tree):
                place = f"runtime/{name}:{call.lineno}"
                try:
                    words = self.first(call.args[0], Scope(name, function))
                except (UnknownError, RecursionError) as error:
                    raise UnknownError(f"{place}: {ast.unparse(call.args[0])}: {error}") from None
                for word in {word for word in words if word and not word.startswith(OURS)}:
                    found.setdefault(Path(word).name, set()).add(place)
        return found

    def first(self, node: ast.expr, scope: Scope) -> set[str]:
        """What the first word of a list of words can be; `""` among them if the list can be empty."""
        match node:
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                found: set[str] = set()
                for element in elements:
                    if not isinstance(element, ast.Starred):
                        return found | self.word(element, scope)
                    found |= self.first(element.value, scope)
                    if "" not in found:
                        return found
                    found.remove("")
                return found | {""}
            case ast.Constant(value=None):
                return {""}
            case ast.IfExp(body=one, orelse=other):
                return self.first(one, scope) | self.first(other, scope)
            case ast.BinOp(left=left, op=ast.Add()):
                return self.first(left, scope)
            case ast.Dict(values=values):
                return {word for value in values for word in self.first(value, scope)}
            case ast.Call(func=ast.Attribute(value=ast.Name() as name, attr="get")):
                return self.first(name, scope)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in self.functions:
                return self._any(self.first, self._returned(name, scope), name)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return self._any(self.first, self._assigned(name, scope), name)
        raise UnknownError(ast.unparse(node))

    def word(self, node: ast.expr, scope: Scope) -> set[str]:
        """What one word can be."""
        match node:
            case ast.Constant(value=str(text)):
                return {text}
            case ast.IfExp(body=one, orelse=other):
                return self.word(one, scope) | self.word(other, scope)
            case ast.Call(func=ast.Name(id="Path"), args=[path]):
                return self.word(path, scope)
            case ast.Attribute(value=ast.Name(id="sys"), attr="executable"):
                return {"python3"}
            case ast.Call(
                func=ast.Name(id="next"), args=[ast.GeneratorExp(generators=[ast.comprehension(iter=ast.Tuple(elts=rows))]), *_]
            ):
                return {word for row in rows for word in self.word(row, scope)}
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return self._any(self.word, self._assigned(name, scope), name)
        raise UnknownError(ast.unparse(node))

    @staticmethod
    def _any(read: Callable[[ast.expr, Scope], set[str]], rows: list[tuple[ast.expr, Scope]], name: str) -> set[str]:
        """What can be told of several; things of other modules that only have the same name cannot."""
        found: set[str] = set()
        for value, scope in rows:
            with suppress(UnknownError):
                found |= read(value, scope)
        if not found:
            raise UnknownError(f"{name} cannot be told")
        return found

    def _returned(self, name: str, scope: Scope) -> list[tuple[ast.expr, Scope]]:
        own = [row for row in self.functions[name] if row[0] == scope.module] or self.functions[name]
        return [
            (node.value, Scope(module, function))
            for module, function in own
            for node in ast.walk(function)
            if isinstance(node, ast.Return) and node.value is not None
        ]

    def _assigned(self, name: str, scope: Scope) -> list[tuple[ast.expr, Scope]]:
        inside = ast.walk(scope.function) if scope.function else ()
        if own := [(value, scope) for node in inside for at, value in _named(node) if at == name]:
            return own
        rows = self.values.get(name, [])
        return [(value, Scope(module, None)) for module, value in [row for row in rows if row[0] == scope.module] or rows]


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.FunctionDef | None]]:
    """The calls of `tower.base.proc`, each with the innermost function it is in."""

    def below(node: ast.AST, function: ast.FunctionDef | None) -> Iterator[tuple[ast.Call, ast.FunctionDef | None]]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="proc"), attr=attr)) if attr in STARTERS:
                    yield child, function
            yield from below(child, child if isinstance(child, ast.FunctionDef) else function)

    return below(tree, None)
