# SPDX-License-Identifier: Apache-2.0
"""What the documents say to type, and the files that they name, are there."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md")))
_CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?:pipeline|runtime|stages|overlays|tests|ci|docs)/[\w./-]*\w")
# Made by whoever needs them, or of a channel that is not locked here.
_MADE = ("pipeline/locks/", "docs/again")
_DOIT = ("list", "help", "info", "clean", "forget", "run")
_STOP = re.compile(r"\s(?:#|\||>|&&|;)")


def code(text: str) -> Iterator[str]:
    """The lines of fenced blocks, and inline code."""
    for match in _CODE.finditer(text):
        yield from (match[1] or match[2]).splitlines()


def commands(document: str, program: str) -> Iterator[list[str]]:
    """The words behind a program, in every line of code that calls it."""
    for line in code((CHECKOUT / document).read_text()):
        words = _STOP.split(line.strip().removeprefix("$ "))[0].split()
        if words[:1] == [program]:
            yield words[1:]


@functools.cache
def said(*argv: str) -> str:
    return subprocess.run([sys.executable, *argv], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60).stdout


@functools.cache
def variables() -> frozenset[str]:
    """The variables that the factory knows, by its own words about one that it does not know."""
    argv = [sys.executable, "-m", "pipeline", "list", "nothing=1"]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
    return frozenset(done.stderr.partition("known: ")[2].split("\n")[0].split(", "))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tasks_and_variables_of_the_factory(document: str) -> None:
    tasks = {line.split()[0] for line in said("-m", "pipeline", "list", "--all").splitlines() if line.strip()}
    faults = []
    for words in [*commands(document, "./ci/doit"), *commands(document, "doit")]:
        for word in words:
            name, equals, _ = word.partition("=")
            if equals:
                known = name in variables() or name.startswith("engine.")
            elif word.startswith(("-", "<", "[", "…")) or word in ("--", "..."):
                continue
            else:
                known = word in tasks or word in _DOIT or re.search(r"[<…A-Z\[*]", word) is not None
            if not known:
                faults.append(f"{' '.join(words)}: {word}")
            if not equals:
                break  # what follows is the task's own
    assert faults == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_of_tower(document: str) -> None:
    faults = []
    for words in commands(document, "tower"):
        command = next((word for word in words if not word.startswith("-")), "")
        if re.search(r"[A-Z<…]", command) or len(command) == 1:  # a placeholder, or what completion is shown with
            continue
        if command and re.search(rf"^ +{re.escape(command)}\b", said("-m", "tower", "--help"), re.MULTILINE) is None:
            faults.append(f"tower {' '.join(words)}: no command")
            continue
        known = said("-m", "tower", *([command] if command else []), "--help")
        # `tower run HOST COMMAND`: options behind the host may be the command's.
        own = words[: words.index(command) + 2] if command == "run" else words
        faults += [
            f"tower {' '.join(words)}: {option}"
            for option in (re.split(r"[=,.)\]]", word)[0] for word in own if word.startswith("--") and word != "--")
            if re.search(rf"{re.escape(option)}\b", known) is None
        ]
    assert faults == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named(document: str) -> None:
    faults = []
    for line in code((CHECKOUT / document).read_text()):
        for match in _PATH.finditer(line):
            before, after = line[: match.start()][-1:], line[match.end() :][:1]
            pattern = after in set("<*{$") or before in set("/.~>}-_$") or before.isalnum()
            if not pattern and not match[0].startswith(_MADE) and not Path(CHECKOUT, match[0]).exists():
                faults.append(match[0])
    assert faults == []


def test_names_in_documents_that_do_not_exist_are_found(tmp_path: Path) -> None:
    """The tests above can fail."""
    (tmp_path / "page.md").write_text(
        "```\n./ci/doit nothing\n./ci/doit list odd=1\ntower fly\ntower status --odd\n```\n`stages/none`"
    )
    page = str(tmp_path / "page.md")
    for test in (test_tasks_and_variables_of_the_factory, test_commands_and_options_of_tower, test_files_that_are_named):
        with pytest.raises(AssertionError):
            test(page)
