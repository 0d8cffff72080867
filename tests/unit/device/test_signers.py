# SPDX-License-Identifier: Apache-2.0
"""Whose signature a bundle may carry: plain keys of the user's authorized_keys, and no other line of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
BUNDLE = CHECKOUT / "overlays/host/usr/libexec/tower/bundle"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVuYWJsZWQ"


def signers(folder: Path, line: str) -> str:
    """What the function of the program says for a user with this line."""
    (folder / ".ssh").mkdir()
    (folder / ".ssh/authorized_keys").write_text(f"{line}\n")
    (folder / "passwd").write_text(f"alice:x:1000:1000::{folder}:/bin/sh\n")
    found = re.search(r"^signers\(\) \{\n.*?^\}$", BUNDLE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    function = found.group().replace("/etc/passwd", str(folder / "passwd"))
    script = f'fail() {{ echo "$2" >&2; exit "$1"; }}\n{function}\nDOAS_USER=alice signers'
    done = subprocess.run(["busybox", "sh", "-euc", script], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [KEY, f"{KEY} alice@laptop", f"  {KEY}\tcomment of two words"])
def test_a_plain_key_signs(tmp_path: Path, line: str) -> None:
    assert signers(tmp_path, line) == f'tower namespaces="tower-bundle" {KEY}\n'


@pytest.mark.parametrize(
    "line",
    [
        f"# {KEY}",
        f"#{KEY}",
        f"cert-authority {KEY}",
        f'command="/bin/backup" {KEY}',
        f'expiry-time="20200101" {KEY}',
        f'from="192.168.3.100",restrict {KEY} alice',
        f"restrict {KEY}",
        f"old {KEY}",
        "ssh-rsa AAAAB3NzaC1yc2E",
        "",
    ],
)
def test_any_other_line_does_not(tmp_path: Path, line: str) -> None:
    assert signers(tmp_path, line) == ""
