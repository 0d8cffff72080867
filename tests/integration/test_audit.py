# SPDX-License-Identifier: Apache-2.0
"""`doit audit:lock`: everything once more from the lock alone, and what differs or is lacking then is named."""

from __future__ import annotations

from tests.integration.conftest import Tiny

FACTORY_ERROR = 1
STAGE_ERROR = 15


def test_a_replay_from_the_lock_gives_the_same_bytes(tiny: Tiny) -> None:
    said = tiny.doit("audit:lock")
    assert "replay of stage:third: the same bytes" in said
    assert "replay of channel:keys: the same bytes" in said
    assert "replay without a network" in said
    assert not (tiny.folder / "build" / "audit").exists()


def test_bytes_that_come_from_elsewhere(tiny: Tiny) -> None:
    tiny.script("second", "cat /proc/sys/kernel/random/uuid >/out/second")
    said = tiny.doit("audit:lock", status=FACTORY_ERROR)
    assert "replay of stage:second: 1 not covered\n  second: other bytes" in said
    assert "replay of stage:first: the same bytes" in said
    assert "hint: the lines above name them" in said


def test_a_replay_that_needs_something_outside_the_lock_is_reported(tiny: Tiny) -> None:
    """A driver that takes a file out of the user's cache."""
    path = tiny.folder / "pipeline/channels/drivers.py"
    code = '        if not (self.paths.cache / "extra").exists():\n            raise FetchError("extra: is not there")\n'
    text = path.read_text().replace("progress: Progress) -> None:\n        return\n", f"progress: Progress) -> None:\n{code}")
    path.write_text(
        text.replace(
            "from pipeline.sandbox.engine import",
            "from pipeline.base.errors import FetchError\nfrom pipeline.sandbox.engine import",
        )
    )
    (tiny.cache / "tower").mkdir(parents=True)
    (tiny.cache / "tower" / "extra").touch()
    said = tiny.doit("audit:lock", status=STAGE_ERROR)
    assert "the replay needs something that the lock does not name" in said
    assert "extra: is not there" in said
