# SPDX-License-Identifier: Apache-2.0
"""Remove converted packages that are no longer used, because a later conversion of the same package was used since."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.base.filelock import try_lock
from pipeline.base.recorded import RecordedCache

_NAME = re.compile(r"(?P<package>.+)\.[0-9a-f]{64}\.apk")


def remove_superseded(folder: Path) -> tuple[int, int]:
    """Keep the last used conversion of every package and architecture; return how many were removed, and their bytes.

    Nothing is removed while packages are being converted.
    """
    lock = try_lock(folder / "guard") if folder.is_dir() else None
    if lock is None:
        return 0, 0
    try:
        cache = RecordedCache(folder, report=lambda _: None)
        found: dict[str, list[Path]] = {}
        for path in folder.glob("*.apk"):
            if name := _NAME.fullmatch(path.name):
                found.setdefault(name["package"], []).append(path)
        old = [
            path
            for paths in found.values()
            for path in sorted(paths, key=lambda path: cache.last_used(path.name), reverse=True)[1:]
        ]
        freed = sum(path.lstat().st_blocks * 512 for path in old)
        for path in old:
            cache.remove(path.name)
        return len(old), freed
    finally:
        lock.release()
