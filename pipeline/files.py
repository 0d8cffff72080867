# SPDX-License-Identifier: Apache-2.0
"""Small files of the factory's own, written so that they are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.errors import StoreError


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}", hint="make room or look at the permissions") from error
    finally:
        temporary.unlink(missing_ok=True)
