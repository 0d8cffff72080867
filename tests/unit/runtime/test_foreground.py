# SPDX-License-Identifier: Apache-2.0
"""The script that passes a signal on to a command of a host: whom it finds by the command's mark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tower

from tests.cage import caged

CODE = """
import subprocess, sys
from tower.ssh.foreground import _KILL
shell, given = sys.argv[1].split(), sys.argv[2].encode()
marks = ("tower-abc", "other")
programs = [subprocess.Popen(("sh", "-c", f": {mark}; sleep 300; exit"), start_new_session=True) for mark in marks]
subprocess.run((*shell, "-c", _KILL, "sh", "KILL"), input=given, check=False, timeout=60)
try:
    print(programs[0].wait(1))
except subprocess.TimeoutExpired:
    print(None)
print(programs[1].poll())
"""


@pytest.mark.parametrize("shell", ["sh", "busybox sh"])
@pytest.mark.parametrize(("given", "ended"), [("tower-abc\n", "-9"), ("\n", "None"), ("", "None"), ("tower-a", "None")])
def test_only_marked_processes_are_ended(shell: str, given: str, ended: str) -> None:
    """An empty or unfinished mark is that of a connection that broke. In a namespace, where mistakes end nobody else."""
    env = {**os.environ, "PYTHONPATH": str(Path(tower.__file__).parents[1])}
    argv = caged(sys.executable, "-c", CODE, shell, given)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=100)
    assert done.stdout.split() == [ended, "None"], done.stderr
