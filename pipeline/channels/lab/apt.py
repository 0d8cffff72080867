# SPDX-License-Identifier: Apache-2.0
"""apt as the lab's solver: closures over indexes that apt itself has verified.

Every architecture has its own apt folders in the user's cache; the machine's apt (sources, lists, status,
configuration) is neither read nor changed. apt verifies signatures with the installed Debian archive keyring.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base import proc
from pipeline.base.canonical import Digest, JsonValue, canonical_json, digest_file
from pipeline.base.errors import FetchError, LockError, ToolError
from pipeline.base.filelock import FileLock, locked
from pipeline.base.files import write_file
from pipeline.base.progress import Progress
from pipeline.channels.lab.deb import DEB_ARCH
from pipeline.supply.lock import LockedFile

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NO_LISTS = ("auxfiles", "lock", "partial")
_UPDATE_SECONDS = 600
_SOLVE_SECONDS = 120
_NO_NETWORK_HINT = "check the network, or name another mirror with TOWER_DEBIAN_MIRROR"
_STANDING = (
    "Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nMulti-Arch: allowed\n"
    "Version: 999:1\nMaintainer: lab\nDescription: the lab has something else in its place\n\n"
)


@dataclass(frozen=True, slots=True)
class Suite:
    """The part of a mirror that is used."""

    mirror: str
    name: str
    components: tuple[str, ...]
    keyring: Path = KEYRING


class Apt:
    """apt for one architecture (by Alpine's name for it), with its own folders below `home`."""

    def __init__(self, home: Path, suite: Suite, arch: str) -> None:
        self.arch = arch
        self.suite = suite
        self.root = home / f"{suite.name}-{DEB_ARCH[arch]}"

    def update(self, progress: Progress) -> None:
        """Fetch and verify the indexes; if the mirror has no valid ones, use earlier verified ones.

        Raises FetchError when there are none at all, or apt refuses a signature.
        """
        if not self.suite.keyring.is_file():
            raise ToolError(
                f"{self.suite.keyring}: Debian's archive keyring is missing", hint="apt-get install debian-archive-keyring"
            )
        with self._locked():
            self._configure(())
            self._forget_changed(progress)
            try:
                self._apt_get("update", "-o", "APT::Update::Error-Mode=any", timeout=_UPDATE_SECONDS)
            except ToolError as error:
                refused = re.search(r"NO_PUBKEY|BADSIG|EXPKEYSIG|signed|signature", error.message)
                if refused or not self._has_lists():
                    raise FetchError(
                        f"Debian mirror {self.suite.mirror}: no verified index of {self.suite.name} "
                        f"({DEB_ARCH[self.arch]})\n  {error.message}",
                        hint=_NO_NETWORK_HINT,
                    ) from error
                why = next((line.strip() for line in error.message.splitlines() if re.match(r"\s*E: ", line)), "")
                progress.say(
                    f"lab: {self.suite.mirror} cannot be reached, or its index is not valid; "
                    f"locking from the indexes fetched earlier\n  {why}".rstrip()
                )
            else:
                write_file(self._record, canonical_json(_digests(self._lists)))

    @property
    def _lists(self) -> Path:
        return self.root / "lists"

    @property
    def _record(self) -> Path:
        """Return the file with the digests of the indexes as apt verified them: apt does not verify them again on use."""
        return self.root / "lists.json"

    def _forget_changed(self, progress: Progress) -> None:
        """Remove indexes that have changed since apt verified them, and apt's caches of them; they are fetched again."""
        for name in ("pkgcache.bin", "srcpkgcache.bin", "extended_states"):
            (self.root / name).unlink(missing_ok=True)
        found = _digests(self._lists)
        try:
            recorded = parse_json(read_regular(self._record))
        except (OSError, ValueError):
            recorded = None
        if not found or found == recorded:
            return
        if isinstance(recorded, dict):
            odd = next(name for name in sorted({*found, *recorded}) if found.get(name) != recorded.get(name))
            progress.say(f"{self._lists / odd}: was changed since apt verified it; the indexes are fetched again")
        shutil.rmtree(self._lists)
        (self._lists / "partial").mkdir(parents=True)

    def closure(self, wanted: Iterable[str], standing: Iterable[str] = (), *, essential: bool = False) -> tuple[LockedFile, ...]:
        """Return everything that must be installed for `wanted`, on a system that has only `standing`.

        With `essential` also what every real Debian system has.
        `standing` are Debian packages that the lab's own packages replace: apt takes them for installed.
        Raises LockError when apt finds no solution.
        """
        names = [*sorted(set(wanted)), *(("?essential",) if essential else ())]
        if not names:
            return ()
        with self._locked():
            self._configure(sorted(set(standing)))
            try:
                listed = self._apt_get("--print-uris", "install", *names, timeout=_SOLVE_SECONDS)
                found = re.findall(r"^'[^']+' (\S+)_(\S+)_\S+\.deb \d+ ", listed, flags=re.MULTILINE)
                shown = self._run("apt-cache", "show", *(f"{name}={version.replace('%3a', ':')}" for name, version in found))
            except ToolError as error:
                raise LockError(
                    f"lab ({DEB_ARCH[self.arch]}): apt finds no solution for the wanted packages\n  {error.message}",
                    hint="look at the worlds in pipeline/recipes and the tables in pipeline/channels/lab/packages",
                ) from error
        return parse_records(shown)

    def _locked(self) -> AbstractContextManager[FileLock]:
        return locked(self.root / "guard")

    def _has_lists(self) -> bool:
        # apt's names: the address without its scheme, slashes as underscores.
        address = self.suite.mirror.partition("://")[2].replace("/", "_")
        names = (
            f"{address}_dists_{self.suite.name}_{part}_binary-{DEB_ARCH[self.arch]}_Packages" for part in self.suite.components
        )
        return all((self.root / "lists" / name).is_file() for name in names)

    def _configure(self, standing: Sequence[str]) -> None:
        shutil.rmtree(self.root / "empty", ignore_errors=True)  # files there would be settings of apt
        for name in ("lists/partial", "archives/partial", "empty"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        arch = DEB_ARCH[self.arch]
        (self.root / "status").write_text("".join(_STANDING.format(name=name, arch=arch) for name in standing))
        (self.root / "sources.list").write_text(
            f"deb [signed-by={self.suite.keyring} arch={arch}] {self.suite.mirror} "
            f"{self.suite.name} {' '.join(self.suite.components)}\n"
        )
        settings = {
            "Dir::State": self.root,
            "Dir::State::lists": self.root / "lists",
            "Dir::State::status": self.root / "status",
            "Dir::State::extended_states": self.root / "extended_states",
            "Dir::Cache": self.root,
            "Dir::Cache::archives": self.root / "archives",
            "Dir::Etc::sourcelist": self.root / "sources.list",
            "Dir::Etc::main": self.root / "empty" / "apt.conf",
            **{f"Dir::Etc::{part}": self.root / "empty" for part in ("sourceparts", "parts", "preferencesparts", "trustedparts")},
            "Dir::Etc::preferences": self.root / "empty" / "preferences",
            "Dir::Etc::trusted": self.root / "empty" / "trusted.gpg",
            "APT::Architecture": arch,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }
        lines = [f'{key} "{value}";\n' for key, value in settings.items()]
        (self.root / "apt.conf").write_text("".join([*lines, f'APT::Architectures {{ "{arch}"; }};\n']))

    def _apt_get(self, *args: str, timeout: float) -> str:
        return self._run("apt-get", "-qq", "-y", *args, timeout=timeout)

    def _run(self, *argv: str, timeout: float = _SOLVE_SECONDS) -> str:
        env = {"APT_CONFIG": str(self.root / "apt.conf")}
        return proc.run(argv, env=env, timeout=timeout, hint="this needs a Debian machine with apt").stdout.decode()


def _digests(lists: Path) -> dict[str, JsonValue]:
    """Return the SHA-256 of each of apt's indexes, by name; anything but a plain file has none."""
    return {
        path.name: digest_file(path) if path.is_file() and not path.is_symlink() else ""
        for path in sorted(lists.iterdir())
        if path.name not in _NO_LISTS
    }


def parse_records(text: str) -> tuple[LockedFile, ...]:
    """Return the packages in `apt-cache show`'s output, sorted by name; the first record of each counts. Raises LockError."""
    found: dict[str, LockedFile] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, flags=re.MULTILINE))
        if not fields:
            continue
        try:
            row = LockedFile(
                fields["Package"], fields["Version"], Digest(fields["SHA256"]), int(fields["Size"]), fields["Filename"]
            )
        except (KeyError, ValueError) as error:
            raise LockError(
                f"{fields.get('Package', 'a package')}: apt's record lacks {error}", hint="run: ./ci/doit lock"
            ) from error
        found.setdefault(row.name, row)
    return tuple(sorted(found.values()))
