# SPDX-License-Identifier: Apache-2.0
"""`dataclass` for modules that must start quickly; type checkers see the standard one.

`python -m pipeline.apk` is started for one question at a time, as apk is, and is compared with it (ci/bench/verify.py). The
standard module, which imports `inspect` and compiles code for every class, would add 10 to 20 ms to each start. This one has the
same meaning for what we use: fields, defaults, frozen, slots, equality, hash, and `dataclasses.replace`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 (exported)
    from typing import Any, NoReturn


class _Fields:
    """`__dataclass_fields__`, made only when it is used (`dataclasses.replace`, `asdict`)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __get__(self, instance: object, owner: type) -> dict[str, Any]:
        import dataclasses

        return {field.name: field for field in dataclasses.fields(dataclasses.make_dataclass(owner.__name__, self._names))}


def _refuse(self: object, name: str, _value: object = None) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen: cannot change {name!r}")


def _methods(names: tuple[str, ...], defaults: dict[str, object]) -> dict[str, Any]:
    def init(self: object, *args: object, **named: object) -> None:
        if len(args) > len(names) or not named.keys() <= set(names[len(args) :]):
            raise TypeError(f"{type(self).__name__}() takes {', '.join(names)}")
        store = object.__setattr__
        for name, value in zip(names, args, strict=False):
            store(self, name, value)
        for name in names[len(args) :]:
            if name in named:
                store(self, name, named[name])
            elif name in defaults:
                store(self, name, defaults[name])
            else:
                raise TypeError(f"{type(self).__name__}() lacks {name!r}")

    def row(self: object) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in names)

    def equal(self: object, other: object) -> bool:
        return row(self) == row(other) if type(self) is type(other) else NotImplemented

    def digest(self: object) -> int:
        return hash(row(self))

    def show(self: object) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def state(self: object, values: tuple[object, ...]) -> None:
        for name, value in zip(names, values, strict=True):
            object.__setattr__(self, name, value)

    return {"__init__": init, "__eq__": equal, "__hash__": digest, "__repr__": show, "__getstate__": row, "__setstate__": state}


def _light(*, frozen: bool, slots: bool) -> Callable[[type], type]:
    if not (frozen and slots):
        raise TypeError("only dataclass(frozen=True, slots=True) is offered here")

    def make(cls: type) -> type:
        names = tuple(cls.__annotations__)
        defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
        body = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__", *defaults)}
        for key, value in _methods(names, defaults).items():
            body.setdefault(key, value)
        body |= {"__slots__": names, "__match_args__": names, "__setattr__": _refuse, "__delattr__": _refuse}
        body["__dataclass_fields__"] = _Fields(names)
        return type(cls.__name__, cls.__bases__, body)

    return make


if not TYPE_CHECKING:
    dataclass = _light
