# SPDX-License-Identifier: Apache-2.0
"""The small pieces around the conversions: apt's records, keys, code digests, wheels, the builder's tar."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from pathlib import Path

import pytest

from pipeline.apk.format.index import IndexEntry
from pipeline.base.code_digest import code_digest, imported_by
from pipeline.base.errors import ConfigError, LockError
from pipeline.channels.alpine import builder
from pipeline.channels.alpine.settings import read_settings
from pipeline.channels.lab.apt import parse_records
from pipeline.channels.lab.conversions import check_needs
from pipeline.config.channel import Channel
from pipeline.sandbox.rootform import one_form
from pipeline.supply.signing import checkout_key

RECORD = (
    "Package: a\nVersion: 1:2-3\nDepends: b\nDescription-en: text\n more\nFilename: pool/a.deb\nSize: 12\nSHA256: " + "0" * 64
)


def test_apts_records() -> None:
    (row,) = parse_records(f"{RECORD}\n\n{RECORD.replace('1:2-3', '9')}\n\n")
    assert (row.name, row.version, row.size, row.location) == ("a", "1:2-3", 12, "pool/a.deb")
    with pytest.raises(LockError, match="a: apt's record lacks 'SHA256'"):
        parse_records(RECORD.replace("SHA256", "MD5sum"))


def test_the_key_is_made_once_and_only_ours_to_read(tmp_path: Path) -> None:
    key = checkout_key(tmp_path / "keys", "lab")
    assert stat.S_IMODE(key.private.stat().st_mode) == 0o600
    assert key.name == f"lab-{hashlib.sha256(key.public_pem()).hexdigest()[:8]}.rsa.pub"
    assert key.private.name + ".pub" == key.name
    assert checkout_key(tmp_path / "keys", "lab") == key
    key.private.chmod(0o644)
    assert stat.S_IMODE(checkout_key(tmp_path / "keys", "lab").private.stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [key.private.name, key.name]


def test_code_digests_follow_imports() -> None:
    assert "pipeline.channels.lab.deb" in imported_by("pipeline.channels.lab.convert")
    assert code_digest("pipeline.channels.lab.convert") != code_digest("pipeline.channels.lab.debian_version")
    # A conversion must not change because a mirror is looked for in another way.
    seen, todo = set(), ["pipeline.channels.lab.convert"]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported_by(name)
    assert "pipeline.channels.lab.debian" not in seen
    assert "pipeline.channels.lab.mirror" not in seen
    assert "pipeline.channels.lab.package_tree" in seen


def test_channel_settings_are_checked() -> None:
    path = Path("lab.toml")
    settings = {"libc": "newlib", "mirror": {"suite": "trixie", "debain": "x"}}
    channel = Channel("lab", "alpine", "s", "lab", 0, ("x86_64",), "x86_64", False, settings, path)
    with pytest.raises(ConfigError) as caught:
        read_settings(channel)
    assert "debain: unknown key; do you mean 'debian'?" in caught.value.message
    assert "components: missing" in caught.value.message
    assert "libc: must be one of musl, glibc, not 'newlib'" in caught.value.message


def test_needs_without_an_answer_are_listed() -> None:
    rows = [
        IndexEntry("Q1", "a", "1-r0", depends=("so:libx.so.1", "b>=1", "!c", "virtual"), provides=("virtual=2",)),
        IndexEntry("Q1", "b", "1-r0"),
    ]
    with pytest.raises(ConfigError, match="a: so:libx") as caught:
        check_needs(rows)
    assert "b>=1" not in caught.value.message


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
                "./var/log/apk.log",
                "./etc/resolv.conf",
                "./usr/bin/apk",
            ):
                info = tarfile.TarInfo(entry)
                info.type = tarfile.REGTYPE if entry.count("/") > 2 or entry == "./etc/resolv.conf" else tarfile.DIRTYPE
                info.mtime, info.uname = times, f"user{times}"
                archive.addfile(info, io.BytesIO())
        return path

    made = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for times, target in enumerate(made, 100):
        one_form(root(f"plain{times}", times), target, 50, left_out=builder.is_left_out, folders=builder._FOLDERS)
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        found = {info.name: info for info in archive}
    assert {"dev", "tmp", "var/log", "usr/bin/apk"} <= set(found)
    assert not {"etc/resolv.conf", "var/log/apk.log"} & set(found)
    assert found["usr/bin/apk"].mtime == 50
