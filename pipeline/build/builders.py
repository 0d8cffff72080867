# SPDX-License-Identifier: Apache-2.0
"""Remove builders that no build uses any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sandbox.channel_images import image_tag

if TYPE_CHECKING:
    from pipeline.build.workplace import Workplace
    from pipeline.sandbox.engine import Engine


def remove_old_builders(place: Workplace) -> int:
    """Remove builders that this checkout no longer uses, and the images of checkouts that are gone; return their number.

    Raises LockError without a lock that fits, SandboxError without an engine.
    """
    plan, lock = place.plan, place.lock()
    keys = (place.driver.builder_key(lock, plan.builder_arch(arch)) for arch in _used(place))
    keep = {image_tag("builder", plan.channel.name, key) for key in keys}
    name, removed = next(iter(keep)).partition(":")[0], 0
    for engine in _engines(place):
        removed += engine.remove_images("tower.builder", keep=keep, name=name)
        removed += sum(map(engine.remove_images_of_gone_checkouts, ("tower.builder", "tower.minirootfs")))
    return removed


def remove_mini_roots(place: Workplace) -> int:
    """Remove the images of mini roots that this checkout's builders were made in; return their number. Raises SandboxError."""
    return sum(engine.remove_images("tower.minirootfs") for engine in _engines(place))


def _used(place: Workplace) -> list[str]:
    """Return the architectures that have an engine of their own, and "" for the usual one."""
    plan = place.plan
    return ["", *filter(plan.engine_of, plan.channel.architectures)]


def _engines(place: Workplace) -> list[Engine]:
    return list({id(engine): engine for engine in map(place.engine_for, _used(place))}.values())
