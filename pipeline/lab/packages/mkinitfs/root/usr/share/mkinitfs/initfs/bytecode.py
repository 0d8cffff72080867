# SPDX-License-Identifier: Apache-2.0
"""Python sources in the initramfs are compiled here, once, instead of at every start.

The initramfs is new at each start, so nothing compiled there would last.
"""

from __future__ import annotations

import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path


def compile_sources(target: Path) -> None:
    """Compile all modules, if the initramfs has the Python that runs here: another's cannot be made."""
    if not (target / f"usr/bin/python{sys.version_info.major}.{sys.version_info.minor}").exists():
        return
    for source in sorted(target.rglob("*.py")):
        place = f"/{source.relative_to(target)}"
        compiled = target / cache_from_source(place).lstrip("/")
        if compiled.exists():
            continue
        # Unchecked: the source is never looked at, whatever its time is.
        py_compile.compile(
            str(source),
            cfile=str(compiled),
            dfile=place,
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        compiled.chmod(0o644)
