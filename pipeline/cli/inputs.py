# SPDX-License-Identifier: Apache-2.0
"""What publishing and releasing work on, taken from the factory: images/ and release/ do not know it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import StageError
from pipeline.images import publish
from pipeline.images.manifest import ManifestInput, made_of
from pipeline.images.publish import BuiltImage, Destination, Published, image_of
from pipeline.plan.nodes import Image, Node, StageNode, is_folder

if TYPE_CHECKING:
    from pipeline.build.factory import Factory
    from pipeline.release.checks import ReleaseInput
    from pipeline.store.store import Artifact


def destination(factory: Factory) -> Destination:
    """Return where the factory's finished images go."""
    return Destination(factory.paths, factory.progress.say)


def publish_image(factory: Factory, image: Image) -> Path:
    """Bring an image to its place, and build the stages of it that are missing; return its path there.

    Raises StageError, StoreError.
    """
    factory.need(factory.plan.nodes[image.final])
    # Asking for the need of each would look at all that it needs, again and again.
    artifacts = {node.name: factory.find(node) or factory.need(node).artifact for node in _nodes(factory, image)}
    built = _built(factory, image, artifacts[image.final])
    lock, builder = factory.lock().digest, factory.keys.builder(image.arch)
    return publish.publish(destination(factory), built, ManifestInput(image, factory.plan, artifacts, lock, builder))


def find_published(factory: Factory, image: Image) -> Published | None:
    """Return the image, if it is built from what is now in the checkout, and unchanged in its place."""
    artifact = factory.find(factory.plan.nodes[image.final])
    return publish.find_published(destination(factory), _built(factory, image, artifact)) if artifact is not None else None


def need_published(factory: Factory, image: Image) -> Published:
    """Do as `find_published`; raise StageError if the image is not there."""
    found = find_published(factory, image)
    if found is None:
        raise StageError(f"{image.output}: is not built from what is now in the checkout", hint=f"run: ./ci/doit {image.recipe}")
    return found


def release_input(factory: Factory) -> ReleaseInput:
    """Return what a release, or the statement about a rebuild, is made of."""
    from pipeline.release.checks import ReleaseInput

    published = {image.output: find_published(factory, image) for image in factory.plan.images}
    pulled: dict[str, str] = {}
    for node in factory.plan.nodes.values():
        artifact = factory.find(node) if isinstance(node, StageNode) else None
        if artifact is not None and (origin := factory.store.origin(artifact.key)):
            pulled[node.name] = origin
    there = {name: one for name, one in published.items() if one is not None}
    return ReleaseInput(factory.plan, factory.paths, factory.lock, there, pulled)


def _nodes(factory: Factory, image: Image) -> list[Node]:
    return [node for node in factory.plan.needs([image.final]) if not is_folder(node)]


def _built(factory: Factory, image: Image, artifact: Artifact) -> BuiltImage:
    """Return the image whose last stage made `artifact`. Raises StageError if that is not one image."""
    node = factory.plan.nodes[image.final]
    assert isinstance(node, StageNode)  # noqa: S101  (the plan makes no other final node)
    keys = {node.name: factory.keys.of(node).key for node in _nodes(factory, image)}
    return BuiltImage(image, artifact, image_of(node, artifact), made_of(image, factory.plan, keys, factory.lock().digest))
