# SPDX-License-Identifier: Apache-2.0
"""What the checks look at: the files of the checkout that are, or are about to be, committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_GENERATED = {".git", ".venv", "build", "builds", "dist", "__pycache__"}


@pytest.fixture(scope="session")
def files(checkout: Path) -> tuple[Path, ...]:
    """Files of the checkout, by git's own list where there is one."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=checkout, capture_output=True, check=False
    )
    if listing.returncode == 0:
        found = [checkout / name for name in listing.stdout.decode().split("\0") if name]
    else:
        found = [path for path in checkout.rglob("*") if not _GENERATED.intersection(path.relative_to(checkout).parts)]
    return tuple(sorted(path for path in found if path.is_file() and not path.is_symlink()))


@pytest.fixture(scope="session")
def texts(files: tuple[Path, ...]) -> dict[Path, str]:
    """The text files of the checkout, with their content."""
    content = {}
    for path in files:
        raw = path.read_bytes()
        if b"\0" not in raw:
            content[path] = raw.decode(errors="replace")
    return content


@pytest.fixture(scope="session")
def shell_files(texts: dict[Path, str]) -> dict[str, list[Path]]:
    """Shell scripts by the shell that runs them: `bash`, `sh`, `openrc` (services), `sourced` (no shebang)."""
    kinds: dict[str, list[Path]] = {"bash": [], "sh": [], "openrc": [], "sourced": []}
    for path, text in texts.items():
        words = text.partition("\n")[0].removeprefix("#!").split() if text.startswith("#!") else []
        name = "env-" + words[1] if len(words) > 1 and words[0].endswith("/env") else words[0].rpartition("/")[2] if words else ""
        match name:
            case "bash" | "env-bash":
                kinds["bash"].append(path)
            case "sh" | "ash" | "dash" | "env-sh":
                kinds["sh"].append(path)
            case "openrc-run":
                kinds["openrc"].append(path)
            case "" if path.suffix == ".sh":
                kinds["sourced"].append(path)
    return kinds
