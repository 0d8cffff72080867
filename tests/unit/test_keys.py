# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.canonical import Digest, digest_json
from pipeline.base.errors import LockError
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.build.factory import Factory
from pipeline.config.stage import OptionValue
from pipeline.plan.keys import NotBuiltError, environment_of
from pipeline.plan.nodes import Settings
from pipeline.supply.lock import Choice
from tests.unit.small import Driver, make_checkout, make_factory, put, write

ROOT = "stage:root:pc"


def opened(paths: Paths, driver: Driver | None = None, settings: Settings | None = None) -> Factory:
    factory = make_factory(paths, driver or Driver(), settings)
    factory.need_by_name("channel:repository:x86_64")
    factory.need_by_name("channel:keys")
    return factory


def key(factory: Factory, name: str = ROOT) -> Digest:
    return factory.keys.of(factory.plan.nodes[name]).key


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return make_checkout(tmp_path)


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_generated_lock_that_somebody_changed(paths: Paths, monkeypatch: pytest.MonkeyPatch, with_digest: bool) -> None:
    """A generated lock that was changed since it was written is made again, with a message."""
    opened(paths)
    path = paths.channel("lab") / "lock.json"
    before = path.read_bytes()
    edited = json.loads(before)
    edited["packages"]["x86_64"][0]["sha256"] = "b" * 64
    if not with_digest:
        del edited["digest"]
    path.write_text(json.dumps(edited))
    said: list[str] = []
    monkeypatch.setattr(Screen, "say", lambda _, text: said.append(text))
    factory = make_factory(paths, Driver())
    assert path.read_bytes() == before
    assert factory.lock().packages["x86_64"][0].sha256 == "a" * 64
    assert len(said) == 1
    assert "was changed by hand" in said[0]
    assert "it is made again" in said[0]


def test_a_key_is_the_digest_of_its_document(paths: Paths) -> None:
    factory = opened(paths)
    keyed = factory.keys.of(factory.plan.nodes[ROOT])
    assert keyed.key == digest_json(keyed.document)
    assert set(keyed.document) == {"schema", "stage", "options", "sources", "inputs", "builder", "secrets"}
    assert keyed.document["options"] == {
        "arch": "x86_64",
        "branch": "edge",
        "channel": "lab",
        "epoch": 1000,
        "target": "pc",
        "version": "1.2",
        "world": ["busybox", "apk-tools"],
        "size": 4,
    }
    assert str(paths.checkout) not in str(keyed.document)


def test_a_stage_is_given_the_choice_of_the_lock(paths: Paths) -> None:
    """It is an option like any other, and so a part of the key; a lock without a choice for the world is refused."""
    stage = paths.stages / "root" / "stage.toml"
    stage.write_text(stage.read_text().replace("[options.world]", "locked = true\n[options.world]"))
    chosen = [Choice(("apk-tools", "busybox"), packages) for packages in [("busybox=1-r0",), ("busybox=1-r0", "scanelf=1-r0")]]
    factories = [opened(paths, Driver(choices=(choice,), wanted=f"{number}")) for number, choice in enumerate(chosen)]
    documents = [factory.keys.of(factory.plan.nodes[ROOT]).document for factory in factories]
    options = [document["options"] for document in documents]
    assert all(isinstance(one, dict) for one in options)
    assert [one["locked"] for one in options if isinstance(one, dict)] == [list(choice.packages) for choice in chosen]
    with pytest.raises(LockError, match="no choice for x86_64 of the world apk-tools, busybox"):
        key(opened(paths, Driver(choices=(Choice(("other",), ()),), wanted="other")))


def test_the_place_where_a_stage_runs_is_no_part_of_its_key(paths: Paths) -> None:
    """The builder is: one for the architecture gives other keys, for the stages of that architecture alone."""
    here = opened(paths)
    far = make_factory(paths, Driver(), Settings(engines={"x86_64": "box", "aarch64": "box"}))
    assert key(far) == key(here)
    channel = paths.channels / "lab.toml"
    channel.write_text(channel.read_text() + 'native_builders = ["aarch64"]\n')
    for factory in (here, native := make_factory(paths, Driver(), Settings(engines={"aarch64": "box"}))):
        factory.need_by_name("channel:repository:aarch64")
    assert key(native) == key(here)
    assert key(native, "stage:root:rpi") != key(here, "stage:root:rpi")


def test_a_key_does_not_depend_on_folder_times_modes_or_leftovers(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = make_checkout(tmp_path_factory.mktemp("a-folder-with-another-name"))
    for path in other.checkout.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & 0o700)
    write(other.checkout, {"stages/root/__pycache__/x.pyc": "", "overlay/etc/motd~": "", "stages/lib/a.pyc": ""})
    assert key(opened(paths)) == key(opened(other))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write(root, {"stages/root/run.sh": "false\n"}),
        lambda root: write(root, {"stages/lib/stage.sh": "set -e\n"}),
        lambda root: write(root, {"overlay/etc/motd": "bye\n"}),
        lambda root: write(root, {"overlay/new": ""}),
        lambda root: (root / "overlay/etc/motd").chmod(0o755),
        lambda root: (root / "overlay/etc/motd").rename(root / "overlay/etc/mtod"),
        lambda root: write(root, {"pyproject.toml": '[project]\nversion = "1.3"\n'}),
        lambda root: (root / "pipeline/channels/lab.toml").write_text(
            (root / "pipeline/channels/lab.toml").read_text().replace("epoch = 1000", "epoch = 1001")
        ),
        lambda root: (root / "pipeline/recipes/host.toml").write_text(
            (root / "pipeline/recipes/host.toml").read_text().replace('"busybox"', '"busybox2"')
        ),
    ],
)
def test_a_change_of_sources_version_or_tables_changes_the_key(paths: Paths, change: Callable[[Path], None]) -> None:
    before = key(opened(paths))
    change(paths.checkout)
    assert key(opened(paths)) != before


@pytest.mark.parametrize(
    "driver",
    [
        Driver(repository_text="other\n"),
        Driver(locked=(replace(Driver().locked[0], version="2-r0"),), wanted="others"),
    ],
)
def test_a_change_of_the_channels_packages_changes_the_key(paths: Paths, driver: Driver) -> None:
    assert key(opened(paths)) != key(opened(paths, driver))


def test_other_things_do_not_change_the_key(paths: Paths) -> None:
    before = key(opened(paths))
    write(paths.checkout, {"README.md": "x", "stages/pack/run.sh": "changed\n", "overlay/etc/__pycache__/x": ""})
    assert key(opened(paths)) == before
    assert key(opened(paths, settings=Settings(compress="xz", target="pc"))) == before


def test_the_public_key_is_part_of_the_key_where_the_secret_is_used(paths: Paths) -> None:
    def keys(public: bytes) -> tuple[Digest, Digest]:
        factory = opened(paths, Driver(public=public))
        put(factory, ROOT, {"root.tar": "x"})
        return key(factory), key(factory, "stage:pack:pc")

    one, two = keys(b"one\n"), keys(b"two\n")
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_a_key_waits_for_its_inputs(paths: Paths) -> None:
    factory = opened(paths)
    with pytest.raises(NotBuiltError, match=ROOT):
        key(factory, "stage:pack:pc")
    put(factory, ROOT, {"root.tar": "x"})
    assert key(factory, "stage:pack:pc")


def test_equal_outputs_keep_what_follows(paths: Paths) -> None:
    """A comment in a script builds that stage again, and no other."""
    factory = opened(paths)
    put(factory, ROOT, {"root.tar": "x"})
    before = key(factory), key(factory, "stage:pack:pc")
    write(paths.checkout, {"stages/root/run.sh": "true # a comment\n"})
    factory = opened(paths)
    put(factory, ROOT, {"root.tar": "x"})
    after = key(factory), key(factory, "stage:pack:pc")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_key_without_a_fitting_lock_is_an_error(paths: Paths) -> None:
    factory = make_factory(paths, Driver())
    factory.lock_path.unlink()
    factory._lock = None
    with pytest.raises(LockError, match="no lock that fits"):
        key(factory)
    assert not factory.lock_fits()


def test_the_lock_is_made_when_what_it_depends_on_changed(paths: Paths) -> None:
    driver = Driver()
    factory = make_factory(paths, driver)
    factory.make_lock(again=False)
    assert driver.calls == ["lock"]
    driver.wanted = "more"
    assert not factory.lock_fits()
    factory.make_lock(again=False)
    factory.make_lock(again=True)
    assert driver.calls == ["lock"] * 3


def test_a_damaged_lock_is_made_anew(paths: Paths) -> None:
    driver = Driver()
    factory = make_factory(paths, driver)
    factory.lock_path.write_text('{"schema": 1}')
    with pytest.raises(LockError, match="not a lock"):
        factory._read_lock()
    factory.make_lock(again=False)
    assert driver.calls == ["lock"] * 2


def test_options_as_variables() -> None:
    options: dict[str, OptionValue] = {
        "world": ("a", "b"),
        "free-mib": 3,
        "yes": True,
        "no": False,
        "name": "x",
        "table": {"a": "b"},
    }
    assert environment_of(options) == {
        "TOWER_WORLD": "a b",
        "TOWER_FREE_MIB": "3",
        "TOWER_YES": "1",
        "TOWER_NO": "0",
        "TOWER_NAME": "x",
    }
