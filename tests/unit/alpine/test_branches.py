# SPDX-License-Identifier: Apache-2.0
"""The channels of Alpine's branches: nothing in the factory holds for one of them alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pipeline.base.paths import Paths
from pipeline.channels.alpine.driver import AlpineDriver
from pipeline.channels.drivers import open_driver
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_plan
from pipeline.supply import lockfile
from pipeline.supply.lock import Worlds

BRANCHES = ("v3.23", "v3.24")


def test_the_files_differ_in_what_names_the_branch_alone(checkout: Path) -> None:
    tables = []
    for branch in BRANCHES:
        text = (checkout / "pipeline" / "channels" / f"alpine-{branch}.toml").read_text()
        table = tomllib.loads(text)
        assert table.pop("branch") == branch
        assert branch.removeprefix("v") in table.pop("summary")
        # The planner refuses addresses of another branch.
        table["device_repositories"] = [one.replace(f"/{branch}/", "/") for one in table["device_repositories"]]
        tables.append(table)
    assert tables[0] == tables[1]


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_branch_has_the_same_driver_and_its_own_lock(branch: str, checkout: Path) -> None:
    paths, name = Paths(checkout), f"alpine-{branch}"
    plan = load_plan(paths, Settings(channel=name))
    driver = open_driver(plan.channel, Worlds(plan.stage_worlds), paths)
    assert isinstance(driver, AlpineDriver)
    assert driver.mirror is None, "packages are Alpine's"
    assert plan.channel.releasable
    assert lockfile.lock_path(paths, plan.channel).name == f"{name}.lock.json"
    assert lockfile.lock_command(plan.channel) == f"./ci/doit lock channel={name}"
    assert {image.output for image in plan.images} == {
        f"toweros-host-{plan.version}-{name}-pc.img.zst",
        f"toweros-host-{plan.version}-{name}-rpi.img.zst",
        f"toweros-thinclient-{plan.version}-{name}-x86_64.iso",
    }


def test_locks_of_two_branches_do_not_fit_each_other(checkout: Path) -> None:
    paths, keys = Paths(checkout), set()
    for branch in BRANCHES:
        plan = load_plan(paths, Settings(channel=f"alpine-{branch}"))
        keys.add(open_driver(plan.channel, Worlds(plan.stage_worlds), paths).lock_key())
    assert len(keys) == len(BRANCHES)
