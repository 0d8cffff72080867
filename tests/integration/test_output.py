# SPDX-License-Identifier: Apache-2.0
"""What happens to a command whose output nobody reads to the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("words", [("list",), ("explain",)])
def test_a_reader_that_leaves(checkout: Path, words: tuple[str, ...]) -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "doit", *words), cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        said = command.stderr.read().decode()
        status = command.wait(60)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert status == (0 if words == ("explain",) else -signal.SIGPIPE)
