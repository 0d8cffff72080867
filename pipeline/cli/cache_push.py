# SPDX-License-Identifier: Apache-2.0
"""`doit cache:push`: sign artifacts that were built here, and push them into the shared cache.

Only stages go into the cache: repositories and wheels come from the lock's downloads, which have a vault. A build
never pushes. An artifact that was pulled is not pushed again, because a signature says "I built this".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError, FetchError, ReleaseError, ToolError
from pipeline.plan.nodes import StageNode
from pipeline.store.cache.oci import Registry, RegistryPlace, UnavailableError
from pipeline.store.cache.shared import push

if TYPE_CHECKING:
    from pipeline.build.factory import Factory
    from pipeline.store.store import Artifact

ALLOWED: Final = ("dirty", "lab")


def push_all(factory: Factory, given: Mapping[str, str]) -> None:
    """Sign and push the artifacts of the present plan that were built here (`doit cache:push cache=… key=…`).

    Raises FetchError if the registry is down or refuses.
    """
    from pipeline.supply.keyfiles import secret_key

    for name, hint in (("cache", "cache=registry.example/towercache"), ("key", "key=FILE, a secret key of minisign")):
        if not given.get(name):
            raise ConfigError(f"cache:push: {name}= is missing", hint=hint)
    registry = Registry(RegistryPlace.parse(given["cache"]), check=factory.engine.check)
    _check_state(factory, given.get("cache-push", ""))
    secret = secret_key(given)
    counts = {"pushed": 0, "there already": 0, "pulled, not built here": 0}
    size = 0
    try:
        for artifact in _artifacts(factory):
            if factory.store.origin(artifact.key):
                counts["pulled, not built here"] += 1
                continue
            done = push(registry, artifact, secret)
            counts["pushed" if done.fresh else "there already"] += 1
            size += done.size
    except UnavailableError as error:
        raise FetchError(
            f"cache {registry.place}: {error.message}",
            hint="artifacts pushed so far stay in the registry; if it asks for credentials: docker login",
        ) from error
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "pushed")
    factory.progress.say(f"cache {registry.place}: {shown} ({size / 2**20:.1f} MiB), signed by {secret.public_key.name}")
    data: dict[str, JsonValue] = {"cache": str(registry.place), "size": size, "signer": secret.public_key.name}
    factory.progress.result("cache:push", {**data, "artifacts": {**counts}})


def _artifacts(factory: Factory) -> Iterator[Artifact]:
    """Yield every artifact of a stage of the plan that the store has; each is verified in full."""
    seen: set[str] = set()
    for node in factory.plan.nodes.values():
        found = factory.find(node) if isinstance(node, StageNode) else None
        if found is not None and found.key not in seen:
            seen.add(found.key)
            whole = factory.store.verify(found.key)
            if whole is not None:
                yield whole


def _check_state(factory: Factory, allowed: str) -> None:
    """Raise ReleaseError for a state that others should not be given, unless `cache-push=` allows it."""
    from pipeline.release.checks import checkout_state

    words = [word for word in allowed.split(",") if word]
    unknown = next((word for word in words if word not in ALLOWED), None)
    if unknown is not None:
        raise ConfigError(
            f"cache-push={allowed}: {unknown} is unknown", hint=f"one or more of: {', '.join(ALLOWED)}, separated by commas"
        )
    faults = []
    if "lab" not in words and not factory.plan.channel.releasable:
        faults.append(
            f"channel {factory.plan.channel.name}: its packages are signed with a key of this checkout, "
            "so others have no use for them (cache-push=lab pushes them)"
        )
    if "dirty" not in words:
        try:
            _, changed = checkout_state(factory.paths.checkout)
        except ToolError as error:
            said = error.message.splitlines()[-1].strip()
            faults.append(f"checkout: git cannot tell its state: {said} (cache-push=dirty skips this)")
        else:
            if changed:
                faults.append(f"checkout: differs from its commit in {', '.join(changed[:3])} (cache-push=dirty pushes it)")
    if faults:
        raise ReleaseError("\n  ".join(["cache:push: refused", *faults]), hint="docs/building.md, A shared cache")
