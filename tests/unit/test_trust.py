# SPDX-License-Identifier: Apache-2.0
"""The folder keys/: every file in it is a public key that a table names, with fingerprints that hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import generate_key
from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import ConfigError, FactoryError, VerifyError
from pipeline.supply.trust import TABLE, load_trust

ALPINE = Path(__file__).parents[2] / "keys" / "alpine"
NAME = "alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub"


def folders(checkout: Path) -> list[Path]:
    return sorted(path for path in (checkout / "keys").iterdir())


def test_all_of_keys_is_stated_and_holds(checkout: Path) -> None:
    """No private material, no key that no table names, no stray file."""
    found = folders(checkout)
    assert ALPINE in found
    for folder in found:
        assert folder.is_dir(), f"{folder}: a stray file"
        trust = load_trust(folder)
        assert sorted(key.file for key in trust.keys) == sorted(path.name for path in folder.iterdir() if path.name != TABLE)
        assert all(key.architectures and key.bits >= 2048 for key in trust.keys)


def test_each_key_signs_for_its_architecture_alone() -> None:
    trust = load_trust(ALPINE)
    assert NAME in trust.ring("x86_64").names
    assert NAME not in trust.ring("aarch64").names
    assert not set(trust.ring("x86_64").names) & set(trust.ring("aarch64").names)
    assert sorted(trust.files(["x86_64", "aarch64"])) == sorted(key.file for key in trust.keys)
    with pytest.raises(VerifyError, match="no key may sign for riscv64"):
        trust.ring("riscv64")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] = data[100] ^ 1 if data[100] ^ 1 != 10 else data[100] ^ 2
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda folder: flipped(folder / NAME), NAME),
        (lambda folder: (folder / NAME).unlink(), "cannot be read"),
        (lambda folder: generate_key(folder, "mine", bits=2048), "mine.rsa"),
        (lambda folder: (folder / "notes").write_text("x"), "not in keys.toml"),
        (lambda folder: (folder / NAME).write_bytes((folder / NAME.replace("6165ee59", "4a6a0840")).read_bytes()), "says"),
        (lambda folder: (folder / NAME).write_text("-----BEGIN RSA PRIVATE" + " KEY-----\n"), "a private key"),
        (lambda folder: (folder / NAME).write_text("hello"), "not a public key"),
        (lambda folder: (folder / TABLE).write_text((folder / TABLE).read_text().replace("bits", "bit", 1)), "unknown key"),
        (lambda folder: (folder / TABLE).write_text((folder / TABLE).read_text() + (folder / TABLE).read_text()), "twice"),
        (lambda folder: (folder / TABLE).unlink(), "no such file"),
    ],
)
def test_an_invalid_folder_of_keys_stops_the_factory(act: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "alpine"
    shutil.copytree(ALPINE, folder)
    act(folder)
    with pytest.raises(FactoryError, match=expected) as caught:
        load_trust(folder)
    assert isinstance(caught.value, ConfigError | VerifyError)


def test_the_keys_are_those_of_the_real_package(shared_dir: Path) -> None:
    """Byte for byte what Alpine's package alpine-keys lists for each architecture."""
    files: dict[str, str] = {}
    listed: set[tuple[str, str]] = set()
    with (shared_dir / "alpine-v3.19/packages/alpine-keys-2.4-r1.apk").open("rb") as stream:
        for entry, content in read_package(stream, load_trust(ALPINE).ring("x86_64")).iter_data():
            path = Path(entry.name)
            if entry.kind == "file":
                files[path.name] = digest_bytes(content.read())
            elif path.suffix == ".pub":
                listed.add((path.parent.name, path.name))
    for key in load_trust(ALPINE).keys:
        assert files[key.file] == key.file_sha256
        assert {(arch, key.file) for arch in key.architectures} <= listed
