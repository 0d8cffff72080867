# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.canonical import Digest
from pipeline.base.errors import ConfigError, LockError
from pipeline.channels.drivers import open_driver
from pipeline.config.toml import Problems
from pipeline.plan.planner import load_channel
from pipeline.supply.lock import Lock, LockedFile, Worlds
from tests.unit.small import make_checkout

FILE = LockedFile("busybox", "1-r0", Digest("a" * 64), 10, "pool/b")
LOCK = Lock("lab", Digest("b" * 64), {"x86_64": (FILE,)}, (FILE,), {"x86_64": ()}, {"suite": "trixie"})


def test_a_lock_is_read_back() -> None:
    text = json.dumps(LOCK.to_json())
    assert Lock.from_json(json.loads(text), "x") == LOCK
    assert Lock.from_json(json.loads(text), "x").digest == LOCK.digest


def test_the_digest_names_the_content() -> None:
    assert replace(LOCK, builder=()).digest != LOCK.digest
    assert replace(LOCK, notes={}).digest != LOCK.digest


@pytest.mark.parametrize("data", [None, [], 3, {}, {"schema": 1}, {"schema": 9}, {**LOCK.to_json(), "builder": [{"nam": 1}]}])
def test_an_invalid_lock_is_refused(data: Any) -> None:
    with pytest.raises(LockError, match=r"lock\.json"):
        Lock.from_json(data, "lock.json")


def test_an_unknown_driver(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    channel = replace(load_channel(paths, "lab", Problems()), driver="slackware")
    with pytest.raises(ConfigError, match="no driver is called 'slackware'"):
        open_driver(channel, Worlds(), paths)
