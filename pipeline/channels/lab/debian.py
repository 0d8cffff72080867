# SPDX-License-Identifier: Apache-2.0
"""Find the Debian mirror for the lab: a setting, or the mirror of this machine's own apt.

Reads apt's two source formats (one line, and deb822). A source counts as Debian when it is a binary source of
one of Debian's suites with component `main`, and neither its key nor its address shows that it is someone else's.
The factory contains no host name: on a machine without a Debian source, the setting is required.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.base.errors import ConfigError

SETTING = "TOWER_DEBIAN_MIRROR"
_SUITES = frozenset(
    "oldoldstable oldstable stable testing unstable sid buster bullseye bookworm trixie forky duke".split()  # noqa: SIM905
)
_SCHEMES = frozenset({"http", "https"})
_HINT = f"set {SETTING} to the address of a Debian mirror (the folder that holds dists/ and pool/)"


@dataclass(frozen=True, slots=True)
class SuiteSource:
    """One address of one entry of apt's sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> Iterator[SuiteSource]:
    """Yield the binary sources of a `.list` file; comments and other lines are skipped, as in apt."""
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.fullmatch(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<rest>\S.*)", line)
        if match is None:
            continue
        options = dict(item.partition("=")[::2] for item in (match["options"] or "").split())
        suite, *components = match["rest"].split()
        yield SuiteSource(match["uri"], (suite,), tuple(components), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[SuiteSource]:
    """Yield the enabled binary sources of a `.sources` file."""
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        last = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t") and last:
                fields[last] += "\n" + line.strip()
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        suites, components = (tuple(fields.get(key, "").split()) for key in ("suites", "components"))
        for uri in fields.get("uris", "").split():
            yield SuiteSource(uri, suites, components, fields.get("signed-by", ""))


def read_sources(etc: Path) -> Iterator[SuiteSource]:
    """Yield all sources below apt's folder `etc`, in the order in which apt reads them; unreadable files are skipped."""
    parts = etc / "sources.list.d"
    files = [etc / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for path in files:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)


def is_debian(source: SuiteSource) -> bool:
    """Tell whether this is the archive of Debian itself (not its security archive, not another repository)."""
    if "main" not in source.components or not any(suite in _SUITES for suite in source.suites):
        return False
    if source.signed_by and "debian" not in Path(source.signed_by.split()[0]).name:
        return False
    parts = urlsplit(source.uri.partition("+")[2] or source.uri)
    return "debian" in (parts.hostname or "") or parts.path.rstrip("/").endswith("debian") or "debian" in Path(parts.path).name


def resolve(uri: str) -> str:
    """Return the plain address behind apt's `mirror+file:` and `mirror:file` forms. Raises ConfigError for other kinds."""
    scheme, _, rest = uri.partition(":")
    if scheme in ("mirror+file", "mirror"):
        listed = Path(rest.removeprefix("file:").replace("//", "/", 1))
        try:
            lines = listed.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"{listed}: list of mirrors cannot be read: {error.strerror}", hint=_HINT) from error
        uri = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")
    if urlsplit(uri).scheme not in _SCHEMES or not urlsplit(uri).hostname:
        raise ConfigError(f"Debian mirror {uri!r}: not an http or https address", hint=_HINT)
    return uri.rstrip("/")


def find_mirror(setting: str = "", etc: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of the Debian mirror, without a slash at its end.

    The environment takes precedence over the channel's setting, and that over the machine's sources. Raises ConfigError.
    """
    named = environ.get(SETTING, "") or setting
    if named:
        return resolve(named)
    for source in read_sources(etc):
        if is_debian(source):
            return resolve(source.uri)
    raise ConfigError(f"{etc}: apt has no source of Debian's own archive", hint=_HINT)
