# SPDX-License-Identifier: Apache-2.0
"""A host that has no programs for windows: which packages it needs, and the offer to install them."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.windows.conftest import XVNC, Place, place_without


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One whose hosts have an X server, but none that makes pictures of it."""
    with place_without(tmp_path_factory, (*XVNC, "x11vnc")) as made:
        yield made


def test_the_error_names_the_packages(desk: Place) -> None:
    done = desk.run("--window", "web", "xterm")
    assert done.returncode == 17
    assert "web: has no programs for windows\n  hint: install them: tower install web tigervnc socat" in done.stderr
    assert desk.ids() == []


def test_on_a_terminal_they_are_offered(desk: Place) -> None:
    """The offer is an installation, which shows what it would do and asks. This host is a Debian and has no apk: so it says."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        desk.argv("--window", "web", "xterm"), env=desk.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass
    assert child.wait(60) != 0
    os.close(ours)
    text = said.decode()
    assert "web: has no programs for windows; they are in the packages tigervnc and socat" in text
    assert "hint: install them" not in text
    assert "web" in text.splitlines()[-1] or "hint" in text.splitlines()[-1]
    assert desk.ids() == []
