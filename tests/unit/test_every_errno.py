# SPDX-License-Identifier: Apache-2.0
"""Every error that the system knows, given to every command of the factory: each time one of ours, never a traceback."""

from __future__ import annotations

import builtins
import errno
import io
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import pytest
from doit import doit_cmd

from pipeline.__main__ import main as doit
from pipeline.apk.__main__ import main as apk
from pipeline.base.errors import FactoryError
from pipeline.base.streams import READER_GONE, ended
from pipeline.cli import command_line, commands, tasks
from tests.unit.small import Driver, make_checkout, make_factory

NUMBERS = sorted(errno.errorcode)
_CALLS: tuple[tuple[Any, str], ...] = (
    (builtins, "open"), (io, "open"), (subprocess, "Popen"), (socket.socket, "connect"),
    *((os, name) for name in ("open", "stat", "lstat", "scandir", "listdir", "mkdir", "rename", "replace", "unlink", "readlink")),
    *((os, name) for name in ("chmod", "link", "symlink", "rmdir", "statvfs", "utime", "fork", "pipe", "walk")),
)  # fmt: skip


@contextmanager
def refusing(number: int) -> Iterator[list[str]]:
    """While this lasts, the system refuses everything; which calls it refused."""
    asked: list[str] = []

    def refuse(name: str) -> Callable[..., NoReturn]:
        def call(*args: Any, **_options: Any) -> NoReturn:
            asked.append(name)
            named = args[0] if args and isinstance(args[0], (str, bytes, os.PathLike)) else None
            raise OSError(number, os.strerror(number), *([] if named is None else [named]))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _CALLS:
            patch.setattr(owner, name, refuse(name))
        yield asked


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.__getitem__)
def test_the_error_handler_reports_every_errno(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> int:
        raise OSError(number, os.strerror(number), "some/file")

    status, said = ended(refused), capsys.readouterr()
    assert said.out == ""
    if number == errno.EPIPE:
        assert (status, said.err) == (READER_GONE, "")
    else:
        assert 0 < status < 128
        assert said.err.splitlines()[0] == f"error: some/file: {os.strerror(number)}"


GIVEN = {
    "version": "1.0.0", "key": "key", "dir": "folder", "file": "file", "need": "1", "rebuilders": "keys",
    "cache": "127.0.0.1:1/cache", "cache-key": "cache.pub", "stage": "root:pc", "size": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tasks.Task]:
    """Every task of doit that does something, of a small checkout."""
    factory = make_factory(make_checkout(tmp_path_factory.mktemp("checkout")), Driver())
    parts = (tasks.image_tasks(factory, "host", ""), tasks.stage_tasks(factory), tasks.channel_tasks(factory))
    found = chain(*parts, commands.all_tasks(factory))
    return {f"{row['basename']}:{row.get('name', '')}": row for row in found if row.get("actions")}


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.__getitem__)
def test_every_task(made: dict[str, tasks.Task], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it tries first; a task that tries nothing here is done."""
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", dict(GIVEN))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    assert len(made) > 25
    refusals = 0
    for name, task in made.items():
        with refusing(number) as asked:
            (act,) = task["actions"]
            result = act(arguments=[]) if "pos_arg" in task else act()
            for question in task["uptodate"]:
                if callable(question):
                    assert question() in (True, False), name
            for clean, _words in task.get("clean", ()):
                clean()
        refusals += bool(asked)
        assert result is None or isinstance(result, tasks.FailedTask), name
        if result is not None:
            assert isinstance(result.error, FactoryError), name
            assert 0 < result.error.exit_status < 128, name
    assert refusals > 20


_KEYS, _SOLVE = ["--keys", "keys"], ["solve", "--keys", "keys", "--arch", "x86_64"]
APK = (
    ["info", "a.apk"], ["info", "--json", "a.apk"], ["verify", *_KEYS, "a.apk"], ["verify", *_KEYS, "--json", "a.apk"],
    ["index", "-o", "out", "a.apk"], ["sign", "--key", "key", "a.apk"], ["pack", "--info", "info", "--root", "tree"],
    [*_SOLVE, "--index", "index", "musl"], [*_SOLVE, "--index=index", "musl"],
)  # fmt: skip
DOIT = ("list", "info host", "clean", "forget", "help host", "-f dodo.py host")


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.__getitem__)
def test_every_command_of_apk(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    for words in APK:
        with refusing(number) as asked:
            status = apk(words)
        assert asked, words
        said = capsys.readouterr()
        if number == errno.EPIPE:
            assert status == READER_GONE, words
        else:
            assert 0 < status < 128, words
            assert os.strerror(number) in said.err + said.out, words
        assert "Traceback" not in said.err


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.__getitem__)
def test_every_command_of_doit(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What doit does itself before a task begins, reading dodo.py first of all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dodo.py").write_text("")

    def refused(*_args: Any) -> NoReturn:
        raise OSError(number, os.strerror(number), "dodo.py")

    monkeypatch.setattr("doit.loader.get_module", refused)
    for words in DOIT:
        status, said = doit(words.split()), capsys.readouterr()
        assert "Traceback" not in said.err
        if number == errno.EPIPE:
            assert status == READER_GONE
        else:
            assert 0 < status < 128
            assert f"error: dodo.py: {os.strerror(number)}" in said.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EFBIG, errno.EMFILE, errno.EPERM])
def test_opening_the_factory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {})
    checkout = make_checkout(tmp_path).checkout
    with refusing(number), pytest.raises(SystemExit) as left:
        command_line.open_factory(checkout)
    assert isinstance(left.value.code, int)
    assert 0 < left.value.code < 128
    assert os.strerror(number) in capsys.readouterr().err
