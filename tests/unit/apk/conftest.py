# SPDX-License-Identifier: Apache-2.0
"""Keys made for the run, and Alpine's real files beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing, Signer, generate_key


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with test-1.rsa and its public key."""
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder, "test-1", bits=2048)
    return folder


@pytest.fixture(scope="session")
def ring(key_folder: Path) -> KeyRing:
    """The test's trusted key."""
    return KeyRing.load(key_folder)


@pytest.fixture(scope="session")
def signer(key_folder: Path) -> Signer:
    """Signs as the test's trusted key."""
    return Signer(key_folder / "test-1.rsa", "test-1.rsa.pub", "RSA256")


@pytest.fixture(scope="session")
def alpine(shared_dir: Path) -> Path:
    """Real packages and indexes of Alpine 3.19."""
    return shared_dir / "alpine-v3.19"


@pytest.fixture(scope="session")
def alpine_ring(alpine: Path) -> KeyRing:
    """Alpine's keys, out of the package alpine-keys."""
    keys: dict[str, bytes] = {}
    with (alpine / "packages" / "alpine-keys-2.4-r1.apk").open("rb") as stream:
        for entry, content in read_package(stream, None).iter_data():
            if entry.name.endswith(".pub") and entry.kind == "file":
                keys[Path(entry.name).name] = content.read()
    return KeyRing(keys)
