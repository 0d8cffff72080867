# SPDX-License-Identifier: Apache-2.0
"""Wheels: those of the device's Python and C library, by hash, and without a network when they are there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from socket import create_server

import pytest

from pipeline.base.errors import FetchError, LockError, VerifyError
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import GLIBC, MUSL, WheelSet, WheelShop
from tests.conftest import CHECKOUT
from tests.unit.mirror import Quiet


def make_wheel(folder: Path, name: str, tag: str = "py3-none-any") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-{tag}.whl"
    files = {
        f"{name}/__init__.py": b"",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{name}-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(
        f"{key},sha256={base64.urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b'=').decode()},{len(value)}\n"
        for key, value in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in {**files, f"{name}-1.0.dist-info/RECORD": f"{record}{name}-1.0.dist-info/RECORD,,\n".encode()}.items():
            archive.writestr(key, value)
    return path


ODD = "-R&D it's grün, a;b #1 %41 [x] (y) ~ back\\slash a|b=c `id` *?! <^>"
"""A folder's name; pip takes some of it in a path for something else."""


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSet:
    """Requirements that are answered by a folder, without a network."""
    offered = [
        make_wheel(tmp_path / "offered", "pure"),
        make_wheel(tmp_path / "offered", "native", "cp313-cp313-manylinux_2_28_aarch64"),
        make_wheel(tmp_path / "offered", "native", "cp311-cp311-manylinux_2_28_aarch64"),
    ]
    sums = {path.name.split("-")[0]: "" for path in offered}
    for path in offered:
        sums[path.name.split("-")[0]] += f" --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    requirements = tmp_path / ODD / "requirements.lock"
    requirements.parent.mkdir()
    requirements.write_text("".join(f"{name}==1.0{rows}\n" for name, rows in sums.items()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "offered"))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path))
    return WheelSet(requirements, "3.13", "aarch64", GLIBC)


def test_wheels_are_the_devices_and_need_no_network_twice(wheels: WheelSet, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    shop = WheelShop(vault, tmp_path / ODD / "sets")
    found = shop.resolve(wheels, Quiet())
    assert [wheel.location for wheel in found] == [
        "native-1.0-cp313-cp313-manylinux_2_28_aarch64.whl",
        "pure-1.0-py3-none-any.whl",
    ]
    (tmp_path / "offered").rename(tmp_path / "gone")
    assert shop.resolve(wheels, Quiet()) == found
    (tmp_path / "out").mkdir()
    shop.copy(found, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [wheel.location for wheel in found]
    vault.path(found[0]).write_bytes(b"damaged")
    with pytest.raises(VerifyError, match="differs from the lock"):
        shop.copy(found, tmp_path / "out")
    with pytest.raises(FetchError):
        shop.resolve(wheels, Quiet())


def test_a_wheel_with_another_digest_is_refused(wheels: WheelSet, tmp_path: Path) -> None:
    make_wheel(tmp_path / "offered", "pure").open("ab").write(b"x")
    with pytest.raises(VerifyError, match="HASHES"):
        WheelShop(Vault(tmp_path / "vault"), tmp_path / "sets").resolve(wheels, Quiet())


def test_alpines_wheels_are_musls(wheels: WheelSet, tmp_path: Path) -> None:
    shop = WheelShop(Vault(tmp_path / "vault"), tmp_path / "sets")
    musl = make_wheel(tmp_path / "offered", "native", "cp313-cp313-musllinux_1_2_aarch64")
    row = f" --hash=sha256:{hashlib.sha256(musl.read_bytes()).hexdigest()}"
    text = wheels.requirements.read_text().replace("native==1.0", f"native==1.0{row}")
    wheels.requirements.write_text(text)
    found = shop.resolve(replace(wheels, platforms=MUSL), Quiet())
    assert [wheel.location for wheel in found] == [musl.name, "pure-1.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"name": "native"},
        {"name": "other"},
        {"location": "../../pure-1.0-py3-none-any.whl"},
        {"location": "pure-2.0-py3-none-any.whl"},
        {"location": "pure-1.0-py3-none-macosx_11_0_arm64.whl"},
    ],
)
def test_a_note_that_somebody_changed(wheels: WheelSet, tmp_path: Path, change: dict[str, str]) -> None:
    """What it names must be what the requirements pin: the vault would give out any file that it has."""
    vault, quiet = Vault(tmp_path / "vault"), Quiet()
    shop = WheelShop(vault, tmp_path / "sets")
    found = shop.resolve(wheels, quiet)
    foreign = vault.put(b"foreign")
    note = tmp_path / "sets" / f"{wheels.key}.json"
    rows = json.loads(note.read_bytes())
    (row,) = (row for row in rows if row["name"] == "pure")
    row.update(change)
    if change == {"sha256": "0" * 64}:
        row.update(sha256=foreign, size=7)
    note.write_text(json.dumps(rows))
    assert shop.resolve(wheels, quiet) == found
    assert any("was changed" in line for line in quiet.said)
    assert shop.resolve(wheels, Quiet()) == found


@pytest.mark.parametrize("damage", ["", "[", "{}", '[{"name": 1}]', "[" * 100_000])
def test_a_damaged_note_is_made_again(wheels: WheelSet, tmp_path: Path, damage: str) -> None:
    shop = WheelShop(Vault(tmp_path / "vault"), tmp_path / "sets")
    found = shop.resolve(wheels, Quiet())
    (tmp_path / "sets" / f"{wheels.key}.json").write_text(damage)
    assert shop.resolve(wheels, Quiet()) == found


def test_a_lock_leads_no_wheel_elsewhere(wheels: WheelSet, tmp_path: Path) -> None:
    shop = WheelShop(Vault(tmp_path / "vault"), tmp_path / "sets")
    found = shop.resolve(wheels, Quiet())
    (tmp_path / "out").mkdir()
    with pytest.raises(LockError, match="not the name of a wheel"):
        shop.copy((replace(found[0], location="../elsewhere.whl"),), tmp_path / "out")
    assert not (tmp_path / "elsewhere.whl").exists()


KILLED = """
import sys
from pathlib import Path
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import GLIBC, WheelSet, WheelShop
from tests.unit.mirror import Quiet

folder = Path(sys.argv[1])
shop = WheelShop(Vault(folder / "vault"), folder / "sets")
shop.resolve(WheelSet(Path(sys.argv[2]), "3.13", "aarch64", GLIBC), Quiet())
"""


def test_a_run_that_was_killed(wheels: WheelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip ends with it, and what it left goes with the next run."""
    shop = WheelShop(Vault(tmp_path / "vault"), tmp_path / "sets")
    with create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        patch.setenv("PIP_NO_INPUT", "1")
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        run = subprocess.Popen((sys.executable, "-c", KILLED, str(tmp_path), str(wheels.requirements)), env=env, cwd=tmp_path)
        try:
            silent.settimeout(60)
            asked, _ = silent.accept()  # by pip, which waits for an answer
            (left,) = [path for path in (tmp_path / "sets").iterdir() if path.is_dir()]
            run.kill()
            run.wait(20)
            asked.settimeout(20)
            while asked.recv(4096):  # until pip is gone, and its end of the connection
                pass
        finally:
            run.kill()
            run.wait()
    (tmp_path / "sets" / "tmpolder").mkdir()
    assert left.exists()
    shop.tidy()
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["guard"]
    assert len(shop.resolve(wheels, Quiet())) == 2
    assert not [path for path in (tmp_path / "sets").iterdir() if path.is_dir()]
