# SPDX-License-Identifier: Apache-2.0
"""`doit audit:elf`: the audit of all finished images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.base.canonical import JsonValue
from pipeline.base.errors import StageError, VerifyError
from pipeline.base.files import write_file
from pipeline.base.progress import Screen
from pipeline.base.scratch import temporary_folder

if TYPE_CHECKING:
    from pipeline.images.elf.audit import Reviewed
    from pipeline.images.publish import Destination
    from pipeline.plan.nodes import Image


def audit_elf(at: Destination, channel: str, images: Sequence[Image], screen: Screen) -> None:
    """Audit the `images` of a channel in their place. Raises VerifyError with every fault of all of them."""
    from pipeline.images.elf.reviewed import read_reviewed, reviewed_path

    path = reviewed_path(at.paths.checkout, channel)
    shown = path.relative_to(at.paths.checkout).as_posix()
    known = read_reviewed(path, shown)
    faults: list[str] = []
    for image in images:
        faults += audit_image(at, image, known.get(f"{image.recipe}-{image.target}"), screen)
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise VerifyError(
            "\n  ".join([f"audit:elf: {count}", *faults]), hint=f"fix the stage or package; add what is right to {shown}"
        )


def audit_image(at: Destination, image: Image, reviewed: Reviewed | None, screen: Screen) -> list[str]:
    """Return the faults of one image, and draft its lists in build/audit/. Raises StageError."""
    from pipeline.images.disk import unpacked
    from pipeline.images.elf.audit import Reviewed as Known
    from pipeline.images.elf.audit import compare, lists_of
    from pipeline.images.elf.reviewed import draft
    from pipeline.images.elf.root_tree import tree_of
    from pipeline.images.publish import place_of

    path = place_of(at, image)
    if not path.is_file():
        raise StageError(f"{image.output}: is not built", hint=f"./ci/doit {image.recipe}")
    with temporary_folder("audit") as folder:
        tree = tree_of(unpacked(path, folder))
    name = f"{image.recipe}-{image.target}"
    lists = lists_of(tree)
    sketch = at.paths.build / "audit" / f"{name}.toml"
    write_file(sketch, draft(name, lists).encode())
    files = sum(entry.elf is not None for entry in tree.entries.values())
    faults = compare(tree, image.arch, reviewed or Known(lists))
    if reviewed is None:
        faults.append(f"nobody reviewed what it holds; a draft of the list is in {sketch}")
    screen.say(
        f"{image.output}: {files} ELF files, {len(lists.setuid)} setuid, {len(lists.services)} services, "
        f"{len(lists.modules)} folders of kernel modules: {len(faults)} faults"
    )
    counts: dict[str, JsonValue] = {
        "elf": files,
        "setuid": len(lists.setuid),
        "services": len(lists.services),
        "modules": len(lists.modules),
    }
    screen.result("audit:elf", {"image": image.output, **counts, "faults": list(faults)})
    return [f"{image.output}: {fault}" for fault in faults]
