# SPDX-License-Identifier: Apache-2.0
"""`.PKGINFO`, a package's metadata, and dependencies in it and in indexes."""

from __future__ import annotations

from pipeline.apk.format import version as versions
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NOARCH = "noarch"
"""The architecture of packages that fit every machine."""
SCRIPTS = (
    ".pre-install", ".post-install", ".pre-upgrade", ".post-upgrade", ".pre-deinstall", ".post-deinstall", ".trigger",
)  # fmt: skip
_NAME_ENDS = "<>=~"
_OPERATORS = {
    "=": "=", "==": "=", "<": "<", "<=": "<=", "=<": "<=", ">": ">", ">=": ">=", "=>": ">=",
    "~": "~", "~=": "~", "=~": "~", "<~": "<~", ">~": ">~", "><": "><", "<>": "><",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dependency:
    """One dependency: `name`, perhaps limited by `op` and `version`; `conflict` means that it must not be installed."""

    name: str
    op: str = ""
    version: str = ""
    conflict: bool = False

    def __str__(self) -> str:
        return f"{'!' if self.conflict else ''}{self.name}{self.op}{self.version}"


def parse_dependency(text: str) -> Dependency:
    """Parse a dependency such as `!foo>=1.2`. Raises FormatError."""
    body = text.removeprefix("!")
    start = next((index for index, char in enumerate(body) if char in _NAME_ENDS), len(body))
    end = start
    while end < len(body) and body[end] in _NAME_ENDS:
        end += 1
    name, sign, wanted = body[:start], body[start:end], body[end:]
    if not name or name[0] == "!" or not _is_plain(text) or any(char.isspace() for char in text):
        raise FormatError(f"dependency {text!r}: no name, or white space in it")
    if not sign:
        return Dependency(name, conflict=body != text)
    if sign not in _OPERATORS or not wanted:
        raise FormatError(f"dependency {text!r}: wants an operator (= < <= > >= ~ ><) and a version")
    return Dependency(name, _OPERATORS[sign], wanted, body != text)


@dataclass(frozen=True, slots=True)
class PkgInfo:
    """The fields of `.PKGINFO`; lists are tuples of the original texts."""

    name: str
    version: str
    arch: str
    description: str = ""
    url: str = ""
    license: str = ""
    origin: str = ""
    maintainer: str = ""
    size: int = 0
    builddate: int = 0
    commit: str = ""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    install_if: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    replaces_priority: int | None = None
    provider_priority: int | None = None
    triggers: tuple[str, ...] = ()
    datahash: str = ""

    def dump(self) -> bytes:
        """Return the file's text, with the fields in a fixed order and without empty ones."""
        check_info(self, ".PKGINFO")
        lines: list[str] = []
        for key, field in _FIELDS.items():
            value = getattr(self, field)
            if isinstance(value, tuple):
                # apk joins several lines; abuild writes these two on one line.
                items = (" ".join(value),) if value and key in ("install_if", "triggers") else value
                lines += [f"{key} = {item}" for item in items]
            elif value is not None and (value != "" or key in _NEEDED):
                lines.append(f"{key} = {value}")
        return ("\n".join(lines) + "\n").encode()


_FIELDS = {
    "pkgname": "name", "pkgver": "version", "pkgdesc": "description", "url": "url", "builddate": "builddate",
    "size": "size", "arch": "arch", "origin": "origin", "commit": "commit", "maintainer": "maintainer",
    "license": "license", "replaces_priority": "replaces_priority", "provider_priority": "provider_priority",
    "replaces": "replaces", "depend": "depends", "provides": "provides", "install_if": "install_if",
    "triggers": "triggers", "datahash": "datahash",
}  # fmt: skip
_NEEDED = ("pkgname", "pkgver", "arch")
_LISTS = ("replaces", "depend", "provides", "install_if", "triggers")
_SAID = frozenset(("pkgdesc", "url", "license", "origin", "maintainer", "commit"))
"""Fields that are only for people: of several lines the last counts, as in apk, and they may have another encoding."""
_NUMBERS = ("builddate", "size", "replaces_priority", "provider_priority")
MAX_SIZE = 2 << 20
"""The most bytes of a `.PKGINFO`; a dependency list takes twenty times its size in memory. Real files have up to 80 KiB."""
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+")


def _is_plain(text: str) -> bool:
    """Tell whether a text has no control characters (a newline would start another field, a NUL cut this one)."""
    return text.isprintable() or not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)


def is_name(text: str) -> bool:
    """Tell whether `text` can be a package's name (it becomes part of file names)."""
    return bool(text) and text[0] not in ".-+" and _NAME_CHARS.issuperset(text)


def is_safe_version(text: str) -> bool:
    """Tell whether `text` can be a version in a file name; foreign tools also write versions that are not Alpine's."""
    return text[:1].isalnum() and _NAME_CHARS.issuperset(text.replace("~", "").replace(":", ""))


def check_info(info: PkgInfo, where: str, *, foreign: bool = False) -> None:
    """Raise FormatError unless name, version, arch, dependencies and texts are well formed.

    `foreign` is for packages that others made: apk installs them whatever their version is.
    """
    if not is_name(info.name):
        raise FormatError(f"{where}: pkgname {info.name!r} is not a package name")
    if not (is_safe_version(info.version) if foreign else versions.is_valid(info.version)):
        raise FormatError(f"{where}: pkgver {info.version!r} is not an Alpine version")
    if not is_name(info.arch):
        raise FormatError(f"{where}: arch {info.arch!r} is not an architecture")
    for key, field in _FIELDS.items():
        value = getattr(info, field)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (
                not _is_plain(text.replace("\t", " ") if key in _SAID else text) or text != text.strip()
            ):
                raise FormatError(f"{where}: {key} holds control characters or outer white space: {text!r}")
    for text in (*info.depends, *info.provides, *info.install_if, *info.replaces):
        parse_dependency(text)
    if any(not path.startswith("/") or " " in path for path in info.triggers):
        raise FormatError(f"{where}: triggers must be absolute paths: {' '.join(info.triggers)}")
    if info.datahash and (len(info.datahash) != 64 or not set(info.datahash) <= set("0123456789abcdef")):
        raise FormatError(f"{where}: datahash is not a SHA-256: {info.datahash!r}")


def _number(text: str, key: str, where: str) -> int:
    digits = text.removeprefix("-") if key.endswith("priority") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise FormatError(f"{where}: {key} is not a number: {text!r}")
    return int(text)


def _fields(data: bytes, where: str, *, strict: bool) -> Iterator[tuple[str, str, str]]:
    """Yield place, key and value of each line that has them; apk skips others, such as a description's further lines."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line or line[:1] == b"#":
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode("cp1252", "replace")
        key, equals, value = text.partition(" = ")
        if not equals:
            key, equals, value = text.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or (value and " = " not in text):
            if strict:
                raise FormatError(f"{where}:{number}: not 'field = value': {text[:80]!r}")
            continue
        if key not in _FIELDS:
            continue
        if not line.isascii() and key not in _SAID and text.encode() != line:
            raise FormatError(f"{where}:{number}: {key} is not UTF-8")
        yield f"{where}:{number}", key, value


def parse(data: bytes, where: str = ".PKGINFO", *, strict: bool = False) -> PkgInfo:
    """Parse the `.PKGINFO` of a package; lines that are not a known field are skipped, as in apk.

    The input of a new package is parsed `strict`. Raises FormatError.
    """
    if len(data) > MAX_SIZE:
        raise FormatError(f"{where}: {len(data)} bytes, {MAX_SIZE} are allowed")
    single: dict[str, str | int] = {}
    lists: dict[str, list[str]] = {}
    for place, key, value in _fields(data, where, strict=strict):
        field = _FIELDS[key]
        if key in _LISTS:
            lists.setdefault(field, []).extend(value.split())
            continue
        found = _number(value, key, where) if key in _NUMBERS else value
        if key not in _SAID and single.get(field, found) != found:
            raise FormatError(f"{place}: field {key} occurs twice, as {single[field]} and {found}")
        single[field] = found
    missing = [key for key in _NEEDED if _FIELDS[key] not in single]
    if missing:
        raise FormatError(f"{where}: lacks {', '.join(missing)}")
    info = PkgInfo(**single, **{field: tuple(items) for field, items in lists.items()})  # type: ignore[arg-type]
    check_info(info, where, foreign=not strict)
    return info
