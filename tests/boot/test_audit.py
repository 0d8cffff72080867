# SPDX-License-Identifier: Apache-2.0
"""The finished images, against the rules of the audit and the committed lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.usefixtures("images")
def test_audit_of_the_images(checkout: Path) -> None:
    """What is privileged, listens or is loaded in an image was reviewed; a new service goes into pipeline/images/elf/lab.toml."""
    run = subprocess.run(
        [sys.executable, "-m", "doit", "audit:elf"], cwd=checkout, capture_output=True, text=True, timeout=900, check=False
    )
    if run.returncode != 0:
        pytest.fail(f"{run.stdout[-3000:]}\n{run.stderr[-8000:]}", pytrace=False)
