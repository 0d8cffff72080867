# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.base.errors import SandboxError
from pipeline.sandbox.place import EnginePlace, client_settings, find_place

NUMBER = hashlib.sha256(b"box").hexdigest()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's folder with a context `box`, and no config.json."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    meta = tmp_path / "contexts" / "meta" / NUMBER
    meta.mkdir(parents=True)
    write(tmp_path, {"Name": "box", "Endpoints": {"docker": {"Host": "tcp://box:2376", "SkipTLSVerify": False}}})
    return tmp_path


def write(docker: Path, data: object) -> None:
    (docker / "contexts" / "meta" / NUMBER / "meta.json").write_text(json.dumps(data))


@pytest.mark.parametrize("address", ["unix:///run/far.sock", "tcp://box:2375", "https://box:2376"])
def test_addresses(address: str) -> None:
    assert find_place(address, "engine.aarch64") == EnginePlace(address, address)


def test_a_context(docker: Path) -> None:
    assert find_place("box", "engine.aarch64") == EnginePlace("box (tcp://box:2376)", "tcp://box:2376")


def test_a_context_with_certificates(docker: Path) -> None:
    folder = docker / "contexts" / "tls" / NUMBER / "docker"
    folder.mkdir(parents=True)
    for name in ("ca", "cert", "key"):
        (folder / f"{name}.pem").write_text("")
    found = find_place("box", "engine.aarch64").tls
    assert found.cert == (str(folder / "cert.pem"), str(folder / "key.pem"))
    assert (found.ca_cert, found.verify) == (str(folder / "ca.pem"), True)
    write(docker, {"Endpoints": {"docker": {"Host": "tcp://box:2376", "SkipTLSVerify": True}}})
    assert find_place("box", "engine.aarch64").tls.verify is False


@pytest.mark.parametrize(
    "data", [[], {}, {"Endpoints": []}, {"Endpoints": {"docker": {}}}, {"Endpoints": {"kubernetes": {}}}, "x"]
)
def test_damaged_contexts(docker: Path, data: object) -> None:
    write(docker, data)
    with pytest.raises(SandboxError, match=r"engine\.aarch64=box: this Docker context cannot be read") as caught:
        find_place("box", "engine.aarch64")
    assert "docker context ls" in caught.value.hint


def test_unknown_contexts_and_ssh_addresses_are_refused(docker: Path) -> None:
    with pytest.raises(SandboxError, match=r"engine\.aarch64=bos: there is no Docker context of this name"):
        find_place("bos", "engine.aarch64")
    write(docker, {"Endpoints": {"docker": {"Host": "ssh://box"}}})
    for named in ("box", "ssh://box"):
        with pytest.raises(SandboxError, match=f"engine.aarch64={named}: the factory does not speak ssh://") as caught:
            find_place(named, "engine.aarch64")
        assert "ssh -N -L" in caught.value.hint


def test_client_settings_follow_the_place_and_the_environment(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert client_settings(None) == {}
    monkeypatch.setenv("DOCKER_HOST", "tcp://here:2376")
    assert client_settings(None) == {"base_url": "tcp://here:2376"}
    assert client_settings(EnginePlace("tcp://far:2376", "tcp://far:2376")) == {"base_url": "tcp://far:2376"}
    for name in ("ca", "cert", "key"):
        (docker / f"{name}.pem").write_text("")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(docker))
    far = client_settings(EnginePlace("tcp://far:2376", "tcp://far:2376"))
    assert (far["base_url"], far["tls"].ca_cert, far["tls"].verify) == ("tcp://far:2376", str(docker / "ca.pem"), True)
    # Neither a socket nor a context is spoken to with what the environment says of another engine.
    assert client_settings(EnginePlace("unix:///run/far", "unix:///run/far")) == {"base_url": "unix:///run/far"}
    assert client_settings(EnginePlace("box (tcp://box:2375)", "tcp://box:2375")) == {"base_url": "tcp://box:2375"}
