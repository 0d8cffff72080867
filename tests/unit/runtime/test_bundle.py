# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle and its signature; what the host makes of it is in tests/network/test_bundle.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.hosts import secret
from tower.hosts.env import TowerEnv
from tower.hosts.registry import USER_KEY, Host
from tower.install.bundle import Bundle, File, sign
from tower.install.choose import check_names
from tower.install.repository import HostState, Repository


@pytest.fixture
def bundle(tmp_path: Path, settings: TowerEnv) -> Bundle:
    pair = secret.new_key_pair("al@web")
    (tmp_path / USER_KEY).write_bytes(pair.private)
    (tmp_path / USER_KEY).chmod(0o600)
    (tmp_path / "signers").write_text(f'tower namespaces="tower-bundle" {pair.public}\n')
    repositories = (Repository("https", "a.test", 443, "/main", ""), Repository("https", "a.test", 443, "/edge", "@edge"))
    state = HostState("x86_64", repositories, (), {}, b"", b"", "d" * 64, 41)
    files = (File(tmp_path / "x", "f" * 64, 12, 1, "nano-8-r0.apk"),)
    return Bundle(Host(tmp_path, settings), state, ("nano@edge",), 4096, files)


def test_a_manifest_says_whom_it_is_for_and_all_that_it_holds(bundle: Bundle) -> None:
    assert bundle.manifest.decode().splitlines() == [
        "tower-bundle 1",
        "host web",
        "serial 42",
        f"state {'d' * 64}",
        "space 4096",
        "repository 0 -",
        "repository 1 @edge",
        "add nano@edge",
        f"file {'f' * 64} 12 1 nano-8-r0.apk",
    ]


def test_the_signature_holds_for_that_manifest_and_that_purpose_alone(bundle: Bundle, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(sign(bundle.manifest, bundle.host))

    def verified(data: bytes, purpose: str) -> bool:
        files = ("-f", f"{tmp_path}/signers", "-s", f"{signature}")
        argv = ["ssh-keygen", "-q", "-Y", "verify", "-I", "tower", "-n", purpose, *files]
        return subprocess.run(argv, input=data, capture_output=True, check=False).returncode == 0

    assert verified(bundle.manifest, "tower-bundle")
    assert not verified(bundle.manifest, "file")
    assert not verified(bundle.manifest.replace(b"serial 42", b"serial 43"), "tower-bundle")


@pytest.mark.parametrize("name", ["nano", "nano>=8", "nano=8.2-r0", "nano~8", "so:libc.so.6", "nano@edge", "gtk+3.0", "_x"])
def test_names_of_packages(name: str) -> None:
    check_names([name])


@pytest.mark.parametrize(
    "name", ["", "-x", "--root=/", "a b", "a;b", "a.apk", "./a", "a/b", "!a", "a>", "a@", "é", "a\n", "a" * 300]
)
def test_invalid_names_of_packages_are_refused(name: str) -> None:
    with pytest.raises(ValueRefusedError, match="is not the name of a package"):
        check_names([name])
