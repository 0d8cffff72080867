# SPDX-License-Identifier: Apache-2.0
"""lock, fetch, vault:export, vault:import, vault:gc as the user types them, on Alpine's channel in small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from doit import doit_cmd

from pipeline.base.canonical import digest_json
from pipeline.base.errors import ConfigError, LockError, VerifyError
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.build.factory import Factory
from pipeline.cli import supply
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_plan
from pipeline.release import lock_audit
from pipeline.supply.vault import Vault
from tests.unit.alpine.upstream import ARCHES, BRANCH, Upstream
from tests.unit.small import make_checkout

WORLD = 'base = ["busybox", "apk-tools"]\npi = ["firmware"]'


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables of the command line."""

    def give(**values: str) -> None:
        named = {name.replace("_", "-"): value for name, value in values.items()}
        monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", named, raising=False)

    give()
    return give


@pytest.fixture
def factory(upstream: Upstream, checkout_path: Path, given: Callable[..., None]) -> Callable[[], Factory]:
    """Opens the factory of a checkout whose channel is the small Alpine."""
    paths = make_checkout(checkout_path)
    recipe = paths.recipes / "host.toml"
    assert WORLD in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(WORLD, 'base = ["app"]\npi = ["more"]'))
    (paths.channels / "small.toml").write_text(
        f'driver = "alpine"\nsummary = "in small"\nbranch = "{BRANCH}"\nepoch = 1000\narchitectures = ["x86_64", "aarch64"]\n'
        'builder_arch = "x86_64"\nreleasable = true\n[settings]\nrepositories = ["main", "community"]\n'
        'libc = "musl"\n'
        f'mirrors = ["{upstream.mirror.address}"]\naports = ["{upstream.mirror.address}/aports"]\n'
        'minirootfs = "alpine-minirootfs"\nbuilder = ["tool"]\nwarn_after_days = 100000\n'
    )

    def opened() -> Factory:
        return Factory(load_plan(paths, Settings(channel="small")), paths, Screen(quiet=True))

    return opened


def test_a_committed_lock_is_made_by_its_command_alone(
    factory: Callable[[], Factory], capsys: pytest.CaptureFixture[str], upstream: Upstream
) -> None:
    with pytest.raises(LockError) as caught:
        supply.fetch(factory())
    assert caught.value.hint == "run: ./ci/doit lock channel=small"
    supply.lock(factory())
    assert capsys.readouterr().out.startswith("first lock: ")
    supply.lock(factory())
    assert capsys.readouterr().out == "nothing changed\n"
    lock = factory().lock()
    assert [file.name for file in lock.packages["x86_64"]] == ["app", "lib"]
    assert [file.name for file in lock.packages["aarch64"]] == ["app", "lib", "more"]
    path = factory().lock_path
    assert path.name == "small.lock.json"
    assert path.parent.name == "locks"
    recipe = factory().paths.recipes / "host.toml"
    recipe.write_text(recipe.read_text().replace('base = ["app"]', 'base = ["app", "more"]'))
    with pytest.raises(LockError, match="no lock that fits"):
        supply.fetch(factory())
    supply.lock(factory())
    assert capsys.readouterr().out == "x86_64: added more 1.0-r0\n"


def test_an_older_index_is_taken_when_asked_for(
    factory: Callable[[], Factory], given: Callable[..., None], upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    old = dict(upstream.mirror.files)
    upstream.made += 1000
    upstream.publish()
    supply.lock(factory())
    upstream.mirror.files = old
    with pytest.raises(VerifyError, match="older than the one accepted before"):
        supply.lock(factory())
    given(older_index="yes")
    with pytest.raises(ConfigError, match="unknown"):
        supply.lock(factory())
    given(older_index="accept")
    supply.lock(factory())
    assert "index: main: made" in capsys.readouterr().out


def test_the_vault_goes_to_another_machine(
    factory: Callable[[], Factory], given: Callable[..., None], tmp_path: Path, upstream: Upstream
) -> None:
    supply.lock(factory())
    with pytest.raises(ConfigError, match="which file"):
        supply.export(factory())
    given(file=str(tmp_path / "vault.tar"))
    supply.export(factory())
    upstream.mirror.files.clear()
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    supply.load(factory())
    supply.fetch(factory())
    built = factory()
    for arch in ARCHES:
        built.need_by_name(f"channel:repository:{arch}")


def test_gc_keeps_what_locks_name(factory: Callable[[], Factory], given: Callable[..., None], tmp_path: Path) -> None:
    supply.lock(factory())
    supply.fetch(factory())
    vault = Vault(tmp_path / "cache" / "tower" / "vault")
    stray = vault.put(b"stray")
    for days in ("x", "-1", "nan"):
        given(days=days)
        with pytest.raises(ConfigError, match="not a number"):
            supply.collect(factory())
    given(days="0")
    supply.collect(factory())
    assert not vault.place(stray).exists()
    assert not vault.missing(factory().lock().files)
    path = factory().lock_path
    path.write_text(path.read_text().replace("1.0-r0", "0.9-r0"))
    with pytest.raises(LockError, match="changed by hand"):
        supply.collect(factory())


def test_the_audit_names_what_no_lock_covers(factory: Callable[[], Factory], tmp_path: Path) -> None:
    supply.lock(factory())
    made = factory()
    made.fetch()
    artifact = made.need(made.plan.nodes["channel:repository:x86_64"]).artifact
    assert list(lock_audit._not_locked(made, artifact)) == []
    keys = made.need(made.plan.nodes["channel:keys"]).artifact
    assert list(lock_audit._not_locked(made, keys)) == []
    app = made.lock().packages["x86_64"][0]
    rows = [
        {"name": "app", "version": "1.0-r0", "arch": "x86_64", "checksum": app.checksum},
        {"name": "stranger", "version": "1.0-r0", "arch": "x86_64", "checksum": "Q1x"},
    ]
    with made.store.building(digest_json({}), {}) as work:
        (work.path / "packages.json").write_text(json.dumps(rows))
        (work.path / "extra.apk").write_bytes(b"x")
        work.commit(1.0)
    strange = made.store.lookup(digest_json({}))
    assert strange is not None
    assert list(lock_audit._strange(made, strange)) == ["packages.json: stranger-1.0-r0 Q1x"]
    assert [line.partition(":")[0] for line in lock_audit._not_locked(made, strange)] == ["extra.apk", "packages.json"]


def test_the_same_command_on_a_channel_without_indexes(factory: Callable[[], Factory], given: Callable[..., None]) -> None:
    paths = Paths(factory().paths.checkout)
    lab = Factory(load_plan(paths, Settings()), paths, Screen(quiet=True))
    lab.__dict__["driver"] = SimpleNamespace(mirror=object())
    given(older_index="accept")
    with pytest.raises(ConfigError, match="makes its own mirror"):
        supply.lock(lab)
