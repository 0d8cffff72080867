# SPDX-License-Identifier: Apache-2.0
"""Scripts and triggers, run inside the root: needs root, for chroot."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.apktool.conftest import Lab

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")


@pytest.fixture(scope="session")
def shell() -> dict[str, bytes]:
    """This machine's /bin/sh and the libraries it needs, as files of a package."""
    found = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    paths = ["/bin/sh", *re.findall(r"(/\S+)", found)]
    return {path.lstrip("/"): Path(path).resolve().read_bytes() for path in paths}


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def log_of(lab: Lab) -> list[str]:
    return (lab.root / "log").read_text().splitlines()


@pytest.fixture
def base(lab: Lab, shell: dict[str, bytes]) -> Lab:
    """A root with a shell."""
    lab.package("shell", files=shell, modes=dict.fromkeys(shell, 0o755))
    lab.publish()
    lab.add("shell")
    return lab


KINDS = ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-deinstall", "post-deinstall")


def test_every_script_runs_in_its_turn(base: Lab) -> None:
    scripts = {f".{kind}": script(f'[ -e /usr/bin/app ] && there=1; echo "{kind} $* ${{there:-0}}" >> /log') for kind in KINDS}
    base.package("app", "1.0-r0", {"usr/bin/app": b"1"}, scripts=scripts)
    base.publish()
    out = base.add("app")
    assert "Executing app-1.0-r0.pre-install\nExecuting app-1.0-r0.post-install\n" in out
    base.package("app", "1.1-r0", {"usr/bin/app": b"2"}, scripts=scripts)
    base.publish()
    base.run("upgrade")
    base.run("del", "app")
    assert log_of(base) == [
        "pre-install 1.0-r0 0",
        "post-install 1.0-r0 1",
        "pre-upgrade 1.1-r0 1.0-r0 1",
        "post-upgrade 1.1-r0 1.0-r0 1",
        "pre-deinstall 1.1-r0 1",
        "post-deinstall 1.1-r0 0",
    ]
    assert list(base.root.glob("lib/apk/exec/*")) == []


def test_no_scripts(base: Lab) -> None:
    base.package("app", scripts={".post-install": script("echo ran >> /log")}, triggers=("/usr/bin",))
    base.publish()
    assert "Executing" not in base.add("--no-scripts", "app")
    assert not (base.root / "log").exists()


def test_failing_scripts(base: Lab) -> None:
    base.package("early", files={"usr/bin/early": b""}, scripts={".pre-install": script("exit 3")})
    base.package("late", files={"usr/bin/late": b""}, scripts={".post-install": script("echo trouble >&2; exit 4")})
    base.publish()
    out = base.add("early", status=1)
    assert "ERROR: early-1.0-r0.pre-install: script exited with error 3" in out
    assert "early" not in base.versions()
    assert not (base.root / "usr/bin/early").exists()
    out = base.add("late", "!early", status=1)
    assert "trouble" in out
    assert "ERROR: late-1.0-r0.post-install: script exited with error 4" in out
    assert base.versions()["late"] == "1.0-r0"


def test_trigger_gets_the_folders_that_changed(base: Lab) -> None:
    watch = {".trigger": script('echo "$*" >> /log')}
    base.package(
        "icons", files={"usr/share/icons/a/one": b""}, scripts=watch, triggers=("/usr/share/icons", "/usr/share/icons/*")
    )
    base.package("theme", files={"usr/share/icons/b/two": b"", "usr/share/other/x": b""})
    base.package("else", files={"usr/share/other/y": b""})
    base.publish()
    assert "Executing icons-1.0-r0.trigger" in base.add("icons")
    base.add("theme")
    assert "Executing" not in base.add("else")
    base.run("del", "theme")
    assert log_of(base) == ["/usr/share/icons /usr/share/icons/a", "/usr/share/icons/b", "/usr/share/icons/b"]
    assert (base.root / "lib/apk/db/triggers").read_text().split(maxsplit=1)[1] == "/usr/share/icons /usr/share/icons/*\n"


def test_users_made_by_a_script_own_files(base: Lab) -> None:
    from pipeline.apk.package import TarEntry

    add_user = script("mkdir -p /etc; echo app:x:4711:4712::/:/bin/false >> /etc/passwd; echo app:x:4712: >> /etc/group")
    entry = TarEntry("var-app", "file", 0o600, uid=1, gid=2, uname="app", gname="app")
    base.package("app", scripts={".pre-install": add_user}, extra=[(entry, b"data")])
    base.publish()
    base.add("app")
    status = (base.root / "var-app").stat()
    assert (status.st_uid, status.st_gid) == (4711, 4712)
    assert base.installed()["app"].folders[0].files[0].uid == 4711


def test_commit_hooks(base: Lab) -> None:
    hooks = base.root / "etc/apk/commit_hooks.d"
    hooks.mkdir()
    (hooks / "note").write_bytes(script('echo "hook $1" >> /log'))
    (hooks / "note").chmod(0o755)
    base.package("app")
    base.publish()
    base.add("app")
    base.add("app")
    assert log_of(base) == ["hook pre-commit", "hook post-commit"]
