# SPDX-License-Identifier: Apache-2.0
"""A checkout, a home and a folder for temporary files whose names have all that a name may have: the real ./ci/doit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.integration.conftest import Tiny

ALL = "-R&D it's grün 漢, a;b #1 %41 [x] (y) ~ back\\slash a|b=c `id` *?! <^> @@1"
"""Nothing that means something to a shell, to pip, to a Dockerfile, to mtools or to QEMU is lacking."""
_ONLY_TESTS = re.compile(r"(?:codespell|hypothesis|mypy|ruff|types-\w+)==")


def test_made_listed_built_and_replayed(tiny_at: Callable[[str], Tiny], tmp_path: Path, checkout: Path) -> None:
    tiny = tiny_at(f"{ALL}/-tower")
    # With an environment of its own, as on a new machine; what only tests need takes longer to install than all else.
    shutil.rmtree(tiny.folder / ".venv")
    shutil.copytree(checkout / "runtime", tiny.folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    rows = re.split(r"\n(?=\S)", (checkout / "ci" / "requirements.txt").read_text())
    tiny.write("ci/requirements.txt", "\n".join(row for row in rows if not _ONLY_TESTS.match(row)) + "\n")
    temporary = tmp_path / f"{ALL}:t"
    temporary.mkdir()
    odd = {"TMPDIR": str(temporary), "CDPATH": "/usr", "PYTHONSAFEPATH": "1", "PYTHONHOME": "/nonexistent"}

    said = tiny.doit("list", env=odd)
    assert "making .venv" in said
    assert "replay" in said
    done = subprocess.run(
        [tiny.folder / ".venv/bin/tower", "--help"], capture_output=True, text=True, check=True, env=tiny.environment
    )
    assert done.stdout.startswith("usage: tower ")

    tiny.doit(env=odd)
    assert tiny.image
    assert "nothing to do" in tiny.doit(env=odd)
    assert "second works" in tiny.doit("replay", "stage=second", env=odd)
    assert list(temporary.iterdir()) == [], "what was temporary is gone"


def test_plain_doit_refuses_what_the_entry_refuses(tiny_at: Callable[[str], Tiny]) -> None:
    """doit finds the checkout by itself, past ci/doit."""
    for name in ("a:b", 'a"b', "$HOME", os.fsdecode(b"\xff")):
        tiny = tiny_at(name)
        done = subprocess.run(
            [tiny.folder / ".venv/bin/python", "-m", "pipeline", "list"],
            cwd=tiny.folder, env=tiny.environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (10, ""), done.stderr
        assert "a checkout cannot be used there" in done.stderr
        assert "hint: move it to another folder" in done.stderr
        assert "Traceback" not in done.stderr
