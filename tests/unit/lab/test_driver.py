# SPDX-License-Identifier: Apache-2.0
"""The small pieces around the conversions: apt's records, keys, code digests, wheels, the builder's tar."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.channel import Channel
from pipeline.errors import ConfigError, FetchError, LockError, VerifyError
from pipeline.lab import builder
from pipeline.lab.apt import parse_records
from pipeline.lab.code import code_digest, imported_by
from pipeline.lab.driver import read_settings
from pipeline.lab.repository import check_needs
from pipeline.lab.signing import lab_key
from pipeline.lab.wheels import WheelCache, WheelSet
from tests.unit.lab.test_debcache import Quiet

RECORD = (
    "Package: a\nVersion: 1:2-3\nDepends: b\nDescription-en: text\n more\nFilename: pool/a.deb\nSize: 12\nSHA256: " + "0" * 64
)


def test_apts_records() -> None:
    (row,) = parse_records(f"{RECORD}\n\n{RECORD.replace('1:2-3', '9')}\n\n")
    assert (row.name, row.version, row.size, row.location) == ("a", "1:2-3", 12, "pool/a.deb")
    with pytest.raises(LockError, match="a: apt's record lacks 'SHA256'"):
        parse_records(RECORD.replace("SHA256", "MD5sum"))


def test_the_key_is_made_once_and_only_ours_to_read(tmp_path: Path) -> None:
    key = lab_key(tmp_path / "keys")
    assert stat.S_IMODE(key.private.stat().st_mode) == 0o600
    assert key.name == f"lab-{hashlib.sha256(key.public_pem()).hexdigest()[:8]}.rsa.pub"
    assert key.private.name + ".pub" == key.name
    assert lab_key(tmp_path / "keys") == key
    key.private.chmod(0o644)
    assert stat.S_IMODE(lab_key(tmp_path / "keys").private.stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [key.private.name, key.name]


def test_code_digests_follow_imports() -> None:
    assert "pipeline.lab.deb" in imported_by("pipeline.lab.convert")
    assert code_digest("pipeline.lab.convert") != code_digest("pipeline.lab.version")
    # A builder must not change because a mirror is looked for in another way.
    seen, todo = set(), ["pipeline.lab.builder"]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported_by(name)
    assert "pipeline.lab.mirror" not in seen
    assert "pipeline.lab.driver" not in seen
    assert "pipeline.lab.tree" in seen


def test_channel_settings_are_checked() -> None:
    path = Path("lab.toml")
    channel = Channel("lab", "lab", "s", "lab", 0, ("x86_64",), "x86_64", False, {"suite": "trixie", "mirrror": "x"}, path)
    with pytest.raises(ConfigError) as caught:
        read_settings(channel)
    assert "mirrror: unknown key; do you mean 'mirror'?" in caught.value.message
    assert "settings.components: missing" in caught.value.message


def test_needs_without_an_answer_are_listed() -> None:
    from pipeline.apk.index import IndexEntry

    rows = [
        IndexEntry("Q1", "a", "1-r0", depends=("so:libx.so.1", "b>=1", "!c", "virtual"), provides=("virtual=2",)),
        IndexEntry("Q1", "b", "1-r0"),
    ]
    with pytest.raises(ConfigError, match="a: so:libx") as caught:
        check_needs(rows)
    assert "b>=1" not in caught.value.message


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
    requirements = tmp_path / "requirements.lock"
    requirements.write_text("".join(f"{name}==1.0{rows}\n" for name, rows in sums.items()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "offered"))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path))
    return WheelSet(requirements, "3.13", "aarch64")


def test_wheels_are_the_devices_and_need_no_network_twice(wheels: WheelSet, tmp_path: Path) -> None:
    cache = WheelCache(tmp_path / "cache")
    found = cache.resolve(wheels, Quiet())
    assert [wheel.location for wheel in found] == [
        "native-1.0-cp313-cp313-manylinux_2_28_aarch64.whl",
        "pure-1.0-py3-none-any.whl",
    ]
    (tmp_path / "offered").rename(tmp_path / "gone")
    assert cache.resolve(wheels, Quiet()) == found
    (tmp_path / "out").mkdir()
    cache.copy(found, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [wheel.location for wheel in found]
    cache.path(found[0]).write_bytes(b"damaged")
    with pytest.raises(VerifyError, match="differs"):
        cache.copy(found, tmp_path / "out")
    with pytest.raises(FetchError):
        cache.resolve(wheels, Quiet())


def test_a_wheel_with_another_digest_is_refused(wheels: WheelSet, tmp_path: Path) -> None:
    make_wheel(tmp_path / "offered", "pure").open("ab").write(b"x")
    with pytest.raises(VerifyError, match="HASHES"):
        WheelCache(tmp_path / "cache").resolve(wheels, Quiet())


def test_the_builders_tar_holds_no_trace_of_this_machine(tmp_path: Path) -> None:
    def root(name: str, times: int) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w") as archive:
            for entry in (
                "./",
                "./etc",
                "./usr",
                "./usr/bin",
                "./var",
                "./var/log",
                "./var/log/dpkg.log",
                "./etc/hostname",
                "./usr/bin/apk",
            ):
                info = tarfile.TarInfo(entry)
                info.type = tarfile.REGTYPE if entry.count("/") > 2 or entry == "./etc/hostname" else tarfile.DIRTYPE
                info.mtime, info.uname = times, f"user{times}"
                archive.addfile(info, io.BytesIO())
        return path

    made = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for times, target in enumerate(made, 100):
        builder._finish(root(f"plain{times}", times), target, 50)
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        found = {info.name: info for info in archive}
    assert {"dev", "tmp", "var/log", "usr/bin/apk"} <= set(found)
    assert not {"etc/hostname", "var/log/dpkg.log"} & set(found)
    assert found["usr/bin/apk"].mtime == 50
