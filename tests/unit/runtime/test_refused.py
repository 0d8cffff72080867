# SPDX-License-Identifier: Apache-2.0
"""Whatever the system refuses, at whichever file, is an error of ours: every errno, every command, every option with a path."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tower.base import files, refused
from tower.base.errors import DeviceError, StateError
from tower.cli import main
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Tower
from tower.provision import provision

from tests.unit.runtime.test_sshconf import add

COMMANDS: dict[str, tuple[str, ...]] = {
    "audit": ("audit", "--timeout", "0"),
    "clipboard": ("clipboard", "policy", "share-all"),
    "completion": ("completion", "bash"),
    "deprovision": ("deprovision", "vault", "--yes"),
    "doctor": ("doctor", "gui", "--timeout", "0.1"),
    "install": ("install", "vault", "nano", "--yes"),
    "mdhelp": ("mdhelp", "--man", "pages"),
    "menu": ("menu", "vault"),
    "poweroff": ("poweroff", "vault", "--yes"),
    "provision": ("provision", "new", "--offline", "--username", "al", "--device-file", "o", "--image", "x", "--dry-run"),
    "reboot": ("reboot", "vault", "--yes"),
    "run": ("run", "vault", "true"),
    "setup": ("setup", "--answers", "answers", "--dry-run"),
    "status": ("status", "--timeout", "0.1"),
    "synctime": ("synctime", "vault"),
    "upgrade": ("upgrade", "vault", "--image", "x", "--dry-run"),
    "verify-image": ("verify-image", "x", "--key", "k"),
    "version": ("version",),
    "volume": ("volume", "vault", "50"),
    "wlan-connect": ("wlan-connect", "Home"),
}
ALOOF = {"completion", "version"}
"""Commands that have no business in the user's home."""
HOSTLESS = {"clipboard", "mdhelp", "setup", "verify-image"}
"""Commands that need nothing of what `tower` knows about hosts."""
CALLS = ((os, "stat"), (os, "lstat"), (os, "open"), (os, "scandir"), (os, "listdir"), (os, "mkdir"), (os, "rename"),
         (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "chmod"), (io, "open"), (builtins, "open"))  # fmt: skip


class Refusing:
    """A system that does `count` things in a folder as asked, and refuses all others with an errno."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self.folder, self.number, self.left = os.fspath(folder), number, count
        self.refused = 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(path: object = ".", *rest: object, **named: object) -> object:
            text = os.fspath(path) if isinstance(path, str | Path) else ""
            if isinstance(path, str | Path) and Path(text).absolute().is_relative_to(self.folder):
                self.left -= 1
                if self.left < 0:
                    self.refused += 1
                    raise OSError(self.number, os.strerror(self.number), text)
            return call(path, *rest, **named)

        return refusing


@contextmanager
def refusing(folder: Path, number: int, *, after: int = 0) -> Iterator[Refusing]:
    system = Refusing(folder, number, after)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, system.wrap(getattr(module, name)))
        yield system


def check(status: int, said: str, number: int) -> None:
    """One message of ours."""
    if number in (errno.EPIPE, errno.ESHUTDOWN):
        assert status
        return
    if number in (errno.ENOENT, errno.ENOTDIR) and "there are no hosts yet" in said:
        return
    assert 1 <= status <= 18
    assert said.startswith(("tower", "error: "))
    assert said.count("\ntower") == 0


@pytest.fixture
def vault(tower: Tower, settings: TowerEnv) -> Tower:
    add(tower, settings, "vault")
    return tower


def test_every_command_is_here() -> None:
    assert set(COMMANDS) == set(main.COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - ALOOF))
def test_every_errno_at_the_first_file(vault: Tower, home: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(home.rglob("*"))
    for number in errno.errorcode:
        with refusing(home, number) as system:
            status = main.main(COMMANDS[name])
        check(status, capsys.readouterr().err, number)
        assert system.refused, errno.errorcode[number]
    assert set(home.rglob("*")) == before


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_errno_wherever_it_comes_from(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that no module knew of, with and without a file's name."""
    module = main._load(name)
    for number in errno.errorcode:
        error = OSError(number, os.strerror(number), *(("/a/file",) if number % 2 else ()))
        monkeypatch.setattr(module, "execute", lambda _, error=error: _raise(error))
        status = main.main(COMMANDS[name])
        said = capsys.readouterr().err
        if isinstance(error, BrokenPipeError):
            assert (status, said) == (141, "")
        else:
            assert status == 12
            assert said.startswith(f"tower {name}: ")
            assert os.strerror(number) in said
            assert ("/a/file" in said) == (error.filename is not None)


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENAMETOOLONG])
def test_a_refusal_at_any_later_file_is_reported(
    vault: Tower, settings: TowerEnv, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host is forgotten, while the system refuses from the first, second, third... thing on: each is said, or done."""
    for after in range(200):
        if not (vault.folder / "hosts/vault").is_dir():
            add(vault, settings, "vault")
        with refusing(vault.folder, number, after=after) as system:
            status = main.main(COMMANDS["deprovision"])
        said = capsys.readouterr().err
        if not system.refused:
            assert status == 0
            assert after > 10
            return
        if status:
            check(status, said, number)
    raise AssertionError("more than 200 things are done")


# --- paths as the user gives them ------------------------------------------------------------------------------

LONG = "a" * 300
_NEW = ("provision", "new", "--offline", "--username", "al", "--dry-run", "--unsigned")
OPTIONS = {
    "image": (*_NEW, "--device-file", "o", "--image"),
    "device-file": (*_NEW, "--image", "IMAGE", "--device-file"),
    "device": (*_NEW, "--image", "IMAGE", "--device"),
    "upgrade": ("upgrade", "thinclient", "--dry-run", "--device-file", "o", "--image"),
    "verify-image": ("verify-image", "--key", "RWSeLsocKJfJ8qraBw3VjXouAtNr1Yq5zfrLzEutoivdwPi+L8noqXFC"),
    "key": ("verify-image", "x", "--key"),
    "man": ("mdhelp", "--man"),
}  # fmt: skip
STATUS = {"image": 13, "device-file": 14, "device": 14, "upgrade": 13, "verify-image": 13, "key": 13, "man": 12}


def powerless(*argv: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A `tower` that may do what modes say and no more, whoever runs the tests."""
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    env = {**os.environ, "HOME": str(home)}
    return subprocess.run(
        [*prefix, sys.executable, "-P", "-m", "tower", *argv],
        capture_output=True, text=True, cwd=home, env=env, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["secret/x", LONG, f"{'b/' * 2100}x", "file/x", "circle", "circle/x"])
@pytest.mark.parametrize("option", OPTIONS)
def test_paths_that_lead_nowhere(home: Path, small_image: Path, option: str, path: str) -> None:
    (home / "secret").mkdir(mode=0)
    (home / "file").write_text("x")
    (home / "circle").symlink_to("circle")
    argv = [str(small_image) if word == "IMAGE" else word for word in OPTIONS[option]]
    done = powerless(*argv, path, home=home)
    assert "Traceback" not in done.stderr
    if option == "device-file" and path in ("file/x", "circle") and done.returncode == 0:
        pytest.fail("a file that cannot be was promised")
    assert done.returncode == STATUS[option], done.stderr
    if path == "secret/x" and option not in ("device", "man"):
        assert f"hint: {home}/secret is " in done.stderr
        assert "mode 0000" in done.stderr
    (home / "secret").chmod(0o700)


@pytest.mark.parametrize(("blocks", "status"), [(0, 12), (100, 14)])
def test_a_limit_on_files(home: Path, small_image: Path, blocks: int, status: int) -> None:
    argv = [*_NEW, "--yes", "--no-wait", "--target", "pc", "--image", str(small_image), "--device-file", "o"]
    argv.remove("--dry-run")
    line = f'ulimit -f {blocks}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-P", "-m", "tower", *argv],
        capture_output=True, text=True, cwd=home, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert "File too large" in done.stderr
    assert "hint: a file may not become that large" in done.stderr
    assert list((home / ".local/tower/hosts").iterdir()) == ([home / ".local/tower/hosts/new"] if blocks else [])


def test_a_long_key_is_no_file(home: Path) -> None:
    assert "the public key has" in powerless("verify-image", "x", "--key", LONG, home=home).stderr


# --- what `sudo tower` leaves ----------------------------------------------------------------------------------


def test_a_file_of_roots_in_the_home_says_how_to_get_it_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home / ".local" / "tower"
    place.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    real = os.lstat
    own, other = home.stat().st_uid + 1, home.stat().st_uid

    def lstat(path: Path) -> os.stat_result:
        found = real(path)
        uid = other if Path(path) == place else own
        return os.stat_result((*found[:4], uid, *found[5:10]))

    monkeypatch.setattr(refused, "_user", str)

    monkeypatch.setattr(os, "lstat", lstat)
    error = refused.refused(PermissionError(errno.EACCES, "Permission denied", os.fspath(place / "hosts")))
    assert f"{place} belongs to " in error.hint
    assert error.hint.endswith(f"chown -R {own} {place}")


def test_kinds_and_hints() -> None:
    error = refused.refused(OSError(errno.ENOSPC, "No space left on device"), "/x", kind=DeviceError, hint="other")
    assert isinstance(error, DeviceError)
    assert error.hint == "make room: df -h"
    assert str(refused.refused(OSError("odd"), "/x")) == "/x: odd"
    assert refused.refused(OSError(errno.EFBIG, "has more than 3 bytes", "/x"), hint="mend it").hint == "mend it"
    with pytest.raises(StateError, match="/x: Input/output error"), refused.in_our_words("/x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_no_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert main.main(["status"]) == 12
    assert "set HOME" in capsys.readouterr().err


def test_a_folder_that_cannot_be_removed_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "keys"
    folder.mkdir()
    (folder / "key").write_text("secret")
    with monkeypatch.context() as patch, pytest.raises(StateError, match="not permitted"):
        patch.setattr(os, "unlink", lambda *_, **__: _raise(PermissionError(errno.EPERM, os.strerror(errno.EPERM))))
        files.remove_folder(folder)
    files.remove_folder(folder)
    files.remove_folder(folder)


def test_hosts_of_root_are_not_those_of_who_became_root(
    tower: Tower, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    for owner, said in ((0, "for those of alice, do not run tower as root"), (1000, "make one: tower provision web")):
        with monkeypatch.context() as patch:
            patch.setattr(Tower, "_is_of_a_user", lambda _, owner=owner: owner != 0)
            assert main.main(["run", "web", "true"]) == 11
        assert said in capsys.readouterr().err


# --- what is no error of the system ----------------------------------------------------------------------------

OTHERS = {
    "no text": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 10, "is not text"),
    "no memory": (MemoryError(), 12, "no memory left"),
    "not whole": (ModuleNotFoundError("No module named 'tqdm'"), 16, "No module named 'tqdm'"),
    "no room": (OSError(errno.ENOSPC, "No space left on device", "/x"), 12, "/x: No space left on device"),
    "no folder": (FileNotFoundError(errno.ENOENT, "No such file or directory"), 12, "the current folder: "),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_exceptions_become_errors_of_ours(
    home: Path, small_image: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, status, said = OTHERS[kind]
    with monkeypatch.context() as patch:
        patch.setattr(main._load("version"), "execute", lambda _: _raise(error))
        assert main.main(["version"]) == status
    assert said in capsys.readouterr().err
    # In the middle of a provisioning it is also said how to go on.
    monkeypatch.setattr(provision, "write_disk", lambda *_, **__: _raise(error))
    wish = ("--offline", "--username", "al", "--target", "pc", "--unsigned", "--image", str(small_image), "--device-file", "o")
    assert main.main(["provision", "vault", *wish, "--no-wait", "--yes"]) == status
    told = capsys.readouterr().err
    assert said in told
    assert "continue with: tower provision --resume vault" in told


def test_in_a_folder_that_is_gone(home: Path) -> None:
    for argv, status in ((("mdhelp", "--man", "x"), 12), (("status",), 0), (("verify-image", "x", "--key", "k"), 13)):
        line = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", line, "sh", sys.executable, "-P", "-m", "tower", *argv],
            capture_output=True, text=True, cwd=home, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
