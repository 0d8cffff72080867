# SPDX-License-Identifier: Apache-2.0
"""What the tests see is what a new machine has, and what they start has default signals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import os, signal, subprocess
from pathlib import Path

def test_probe():
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    rows = dict(line.split(":", 1) for line in status.splitlines())
    ignored = [signal.Signals(n).name for n in range(1, 32) if int(rows["SigIgn"], 16) >> (n - 1) & 1]
    print("IGNORED", *ignored, "BLOCKED", int(rows["SigBlk"], 16))
    print("SEEN", *(path for path in os.environ["PROBED"].split(":") if Path(path).exists()))
    print("LEFT", *sorted(os.listdir("/tmp")))
    Path("/tmp/of-the-test").write_text("")
"""


@pytest.fixture
def probe(checkout: Path) -> Path:
    """A test of a run of its own, in this checkout's rings."""
    return checkout / "tests" / "unit" / f"test_probe_{os.getpid()}.py"


def said(checkout: Path, probe: Path, *wrapper: str, probed: tuple[Path, ...] = ()) -> dict[str, list[str]]:
    """What the probe finds in a run that starts with the words of `wrapper`."""
    probe.write_text(f"# SPDX-License-Identifier: Apache-2.0\n{PROBE}")
    argv = [*wrapper, sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(probe)]
    env = {**os.environ, "PROBED": ":".join(map(str, probed))}
    try:
        done = subprocess.run(argv, cwd=checkout, capture_output=True, text=True, timeout=50, check=False, env=env)
    finally:
        probe.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split()[0].lstrip("."): line.split()[1:] for line in done.stdout.splitlines() if re.match(r"\.?[A-Z]+\b", line)}


def test_programs_that_tests_start_have_default_signals(checkout: Path, probe: Path) -> None:
    """A shell without job control starts what is in the background with SIGINT ignored; nohup ignores SIGHUP."""
    found = said(checkout, probe, "sh", "-c", "trap '' INT QUIT HUP TERM; exec \"$@\"", "sh")
    assert found["IGNORED"] == ["BLOCKED", "0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides what a new machine does not have")
def test_files_that_a_new_machine_does_not_have_are_hidden(checkout: Path, probe: Path) -> None:
    """Neither this run's HOME and /tmp are seen in another one, nor what that one leaves, in a third."""
    mine = (Path("/tmp") / "of-another-run", Path.home() / "of-another-run")
    for path in mine:
        path.write_text("")
    try:
        for _ in range(2):
            found = said(checkout, probe, probed=(*mine, checkout, Path(sys.prefix), Path.home() / ".cache" / "tower"))
            assert found["SEEN"] == [str(checkout), sys.prefix, str(Path.home() / ".cache" / "tower")]
            assert "of-another-run" not in found["LEFT"]
            assert "of-the-test" not in found["LEFT"]
    finally:
        for path in mine:
            path.unlink()
    assert not Path("/tmp/of-the-test").exists()
