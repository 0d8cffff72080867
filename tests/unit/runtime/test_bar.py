# SPDX-License-Identifier: Apache-2.0
"""The hosts in the desktop's bar."""

from __future__ import annotations

import json
import subprocess
import sys

from tower.status.bar import lines


def shown(*hosts: dict[str, object]) -> dict[str, str]:
    (line,) = lines([json.dumps({"hosts": hosts, "all_up": False})])
    found: dict[str, str] = json.loads(line)
    return found


def host(name: str, state: str, **more: object) -> dict[str, object]:
    return {
        "host": name,
        "address": "192.168.2.200",
        "network": "online",
        "color": "#3cb44b",
        "state": state,
        "reason": "",
        **more,
    }


def test_up_and_down_are_told_apart() -> None:
    found = shown(host("web", "up"), host("vault", "down", reason="no answer"), host("odd", "strange", reason="another key"))
    assert found["text"] == '<span color="#3cb44b">● web</span>  ○ vault  ⚠ odd'
    assert found["tooltip"].splitlines()[1] == "vault  192.168.2.200  online  down  no answer"
    assert found["class"] == "down"
    assert shown(host("web", "up"))["class"] == "up"


def test_nothing_of_a_host_is_markup() -> None:
    found = shown(host("web", "up", color='"><b>'), host("w", "strange", reason="<i>&"))
    assert found["text"] == "● web  ⚠ w"
    assert found["tooltip"].endswith("&lt;i&gt;&amp;")


def test_a_long_list_is_cut_in_the_bar_and_whole_in_the_details() -> None:
    found = shown(*(host(f"h{number}", "down") for number in range(15)))
    assert found["text"].endswith("○ h11  +3")
    assert len(found["tooltip"].splitlines()) == 15


def test_no_hosts_and_invalid_lines() -> None:
    assert shown()["text"] == "no hosts"
    assert list(lines(["", "not json\n", "[]\n", '{"hosts": 3}\n', '{"hosts": [{}]}\n'])) == []


def test_a_bar_that_ends_is_no_error() -> None:
    """A line that nobody reads would be a traceback in the desktop's log."""
    word = json.dumps({"hosts": [host("web", "up")]}).encode() + b"\n"
    argv = (sys.executable, "-c", "from tower.status.bar import main; main()")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.close()
        child.stdin.write(word)
        child.stdin.flush()
        assert child.wait(20) == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""
