# SPDX-License-Identifier: Apache-2.0
"""~/.docker/config.json as people and tools leave it: what is odd in it is left out, whatever it is."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pipeline.base.docker_config import folder, headers, login
from pipeline.base.errors import SandboxError
from pipeline.sandbox.place import client_settings


def word(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


GOOD = {"auth": word("me:secret")}
# Each stands beside the good entry, in its own place.
ODD_AUTHS = ("", "<token>", word("nocolon"), "/+8=", None, 5)
ODD_ENTRIES: tuple[object, ...] = (*({"auth": odd} for odd in ODD_AUTHS), {}, None, [], "x")
ODD_PARTS: tuple[dict[str, object], ...] = (
    {"proxies": None}, {"proxies": {"default": None}}, {"proxies": []}, {"HttpHeaders": None}, {"HttpHeaders": ["x"]},
    {"credHelpers": None}, {"credHelpers": ["x"]}, {"credHelpers": {"r.example": None}}, {"credsStore": None}, {"credsStore": {}},
    {"credsStore": "no-such-helper"}, {"currentContext": 5}, {"detachKeys": {}}, {"auths": None}, {"auths": []},
)  # fmt: skip
ODD_FILES = (b"", b"[]", b"null", b"5", b"{", b"\xff", b'"x"', b"[" * 5000, b"machine = 1\nx = y\n")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


@pytest.mark.parametrize("entry", ODD_ENTRIES)
def test_an_odd_entry_is_left_out_and_the_others_hold(config: Path, entry: object) -> None:
    config.write_text(json.dumps({"auths": {"odd.example": entry, "good.example:5000": GOOD}, "HttpHeaders": {"X-Meta": "1"}}))
    assert login("odd.example") is None
    assert login("good.example:5000") == ("me", "secret")
    assert login("other.example") is None
    assert headers() == {"X-Meta": "1"}


@pytest.mark.parametrize("part", ODD_PARTS)
@pytest.mark.filterwarnings("ignore:docker-credential-no-such-helper not installed")
def test_odd_parts(config: Path, part: dict[str, object]) -> None:
    config.write_text(json.dumps({"auths": {"https://r.example/v2/": GOOD}, **part}))
    assert login("r.example") == (None if "auths" in part else ("me", "secret"))
    assert headers() == {}


@pytest.mark.parametrize("data", ODD_FILES)
def test_odd_files(config: Path, data: bytes) -> None:
    config.write_bytes(data)
    assert (login("r.example"), headers()) == (None, {})


def test_a_missing_or_unreadable_configuration_is_empty(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.mkdir()
    assert (login("r.example"), headers()) == (None, {})
    for name in ("", str(tmp_path / "nowhere"), "/dev/null", "x" * 300):
        monkeypatch.setenv("DOCKER_CONFIG", name)
        monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
        assert (login("r.example"), headers()) == (None, {})
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("DOCKER_CONFIG", "")
    monkeypatch.setattr("os.getuid", lambda: 54321)  # somebody whom this machine does not know
    assert folder() is None
    assert (login("r.example"), headers()) == (None, {})


def test_headers_that_cannot_be_sent(config: Path) -> None:
    config.write_text(
        json.dumps({"HttpHeaders": {"X-Good": "1", "X Bad": "1", "X-Lines": "1\r\nX: 2", "X-Other": "ü", "X-Number": 1}})
    )
    assert headers() == {"X-Good": "1"}


def test_a_helper(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says counts before the file; when it fails or says nonsense, the file does."""
    helper = tmp_path / "docker-credential-test"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config.write_text(json.dumps({"auths": {"r.example": GOOD}, "credHelpers": {"r.example": "test"}}))
    for answer, expected in (
        ('{"Username": "helped", "Secret": "s"}', ("helped", "s")),
        ('{"Username": "<token>", "Secret": "t"}', ("me", "secret")),
        ("{}", ("me", "secret")),
        ("[]", ("me", "secret")),
        ("nonsense", ("me", "secret")),
        ("' ; exit 1; '", ("me", "secret")),
    ):
        helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")
        helper.chmod(0o755)
        assert login("r.example") == expected, answer


@pytest.mark.parametrize("named", ["ssh://user@127.0.0.1", "SSH://box", " ssh://box:22"])
def test_an_engine_behind_ssh(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", named)
    with pytest.raises(SandboxError, match=r"DOCKER_HOST=.*the factory does not speak .*://") as caught:
        client_settings(None)
    assert "then DOCKER_HOST=unix:///tmp/far.sock" in caught.value.hint
