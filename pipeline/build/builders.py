# SPDX-License-Identifier: Apache-2.0
"""Remove builders that no build uses any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sandbox.images import image_tag

if TYPE_CHECKING:
    from pipeline.build.factory import Factory


def remove_old_builders(factory: Factory) -> int:
    """Remove builders that this checkout no longer uses, and those of checkouts that are gone; return their number.

    Raises LockError without a lock that fits, SandboxError without an engine.
    """
    plan, lock = factory.plan, factory.lock()
    used = ["", *filter(plan.engine_of, plan.channel.architectures)]
    keys = (factory.driver.builder_key(lock, plan.builder_arch(arch)) for arch in used)
    keep = {image_tag("builder", plan.channel.name, key) for key in keys}
    name, removed = next(iter(keep)).partition(":")[0], 0
    for engine in {id(engine): engine for engine in map(factory.engine_for, used)}.values():
        removed += engine.remove_images("tower.builder", keep=keep, name=name)
        removed += engine.remove_images_of_gone_checkouts("tower.builder")
    return removed
