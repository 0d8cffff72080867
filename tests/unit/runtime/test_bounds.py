# SPDX-License-Identifier: Apache-2.0
"""Bounds of what `tower` reads: real data fits with room to spare; what does not is an error that names the bound."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tower.audit.probe import Result, Try, _answers
from tower.base import proc, tarfiles
from tower.base.errors import AnswerError, GarbageError, ImageProblemError, PackageError, TowerError
from tower.image import blockmap
from tower.install import apkindex, bundle
from tower.install.apkindex import control_checksum, read_index
from tower.install.choose import copy_of
from tower.install.repository import HostState, parse_state
from tower.provision import answer
from tower.provision.answer import parse_answer
from tower.status import clock, report

from tests.conftest import CHECKOUT
from tests.unit.runtime.test_repository import GOOD, archive

LARGEST_SEEN = 76 << 10
"""Bytes of a line D: of coq in Alpine's edge."""


def _names(count: int) -> str:
    return " ".join(f"ocaml4-intf:Some_module_{number:06d}=9d1f0c" for number in range(count))


@pytest.mark.parametrize("letter", "CPVASITULomtcDpirqskfg")
@pytest.mark.parametrize("size", [LARGEST_SEEN, 20 * LARGEST_SEEN])
def test_a_field_of_a_hosts_database_is_kept_whole(letter: str, size: int) -> None:
    field = f"{letter}:{_names(size // 36 + 1)}"
    assert len(field) > size
    before = "".join(f"{one}:x\n" for one in "CPV" if one != letter)
    state = parse_state(archive({**GOOD, "installed": f"{before}{field}\n\n".encode()}), "web")
    assert state.installed.decode().split("\n") == [*before.splitlines(), field, "", ""]


@pytest.mark.parametrize("line", ["P:a\x1b[2J", "D:a\tb", "p:a\x00", "V:1\x85", "Q:new", "no field", ":", "D", "é:x"])
def test_a_line_of_a_database_that_cannot_be_kept_is_an_error(line: str) -> None:
    with pytest.raises(AnswerError, match="database of packages has an invalid line") as caught:
        parse_state(archive({**GOOD, "installed": f"P:a\nV:1\n{line}\n\n".encode()}), "web")
    assert caught.value.hint


def test_a_key_that_is_left_out_is_reported() -> None:
    more = {"keys/big.pub": b"k" * 20_000, "keys/a b.pub": b"k", f"keys/{'x' * 130}.pub": b"k"}
    state = parse_state(archive({**GOOD, **more}), "web")
    said = [what for what in state.left_out if "not a key" in what]
    assert len(said) == 3
    assert "'keys/big.pub' of 20000 bytes" in said[0]
    assert len(state.keys) == 1


def _index(path: Path, text: str) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("APKINDEX")
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(b"signature") + gzip.compress(out.getvalue()))
    return path


def test_a_field_of_an_index_is_kept_whole(tmp_path: Path) -> None:
    checksum = "C:Q1" + "A" * 27 + "="
    text = f"{checksum}\nP:coq\nV:8.19.1-r0\nS:5\nD:{_names(60_000)}\nI:7\n\n{checksum}\nP:b\nV:1~0f-r0\nS:5\n\n"
    index = read_index(_index(tmp_path / "APKINDEX.tar.gz", text))
    assert list(index.packages) == [("coq", "8.19.1-r0"), ("b", "1~0f-r0")]
    assert index.packages["coq", "8.19.1-r0"].installed_size == 7
    assert not index.odd


def test_a_record_of_an_index_that_cannot_be_used_is_kept_with_its_reason(tmp_path: Path) -> None:
    good = "C:Q1" + "A" * 27 + "="
    records = [f"{good}\nP:a\nV:1\nS:{'9' * 13}", "C:Q9\nP:b\nV:1", f"{good}\nP:{'c' * 250}\nV:1", f"{good}\nP:d\nV:/1"]
    index = read_index(_index(tmp_path / "APKINDEX.tar.gz", "\n\n".join(records) + "\n\n"))
    assert not index.packages
    assert "at most 12 digits" in index.odd["a", "1"]
    assert "not a checksum" in index.odd["b", "1"]
    assert "do not make a file name" in index.odd["c" * 250, "1"]
    assert "do not make a file name" in index.odd["d", "/1"]


def test_an_index_beyond_its_bounds_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _index(tmp_path / "APKINDEX.tar.gz", "P:a\n" * 50_000)
    with monkeypatch.context() as patch, pytest.raises(PackageError, match="unpacks to more than 100000 bytes"):
        patch.setattr(apkindex, "_MOST_PLAIN", 100_000)
        read_index(path)
    with monkeypatch.context() as patch, pytest.raises(PackageError, match="more than 100 bytes"):
        patch.setattr(apkindex, "MOST_INDEX", 100)
        read_index(path)
    with monkeypatch.context() as patch, pytest.raises(PackageError, match="unpacks to more than 1000 bytes"):
        patch.setattr(apkindex, "_MOST_CONTROL", 1000)
        control_checksum(_index(path, "P:a\n" * 50_000))


def _report(system: str) -> bytes:
    rows = ["boot 00000000-0000-0000-0000-000000000000", "uptime 1.0", "load 0.1", "memory 2", "available 1", "disk 2 1"]
    return "\n".join(["tower-status 1", *rows, f"system {system}", "end", ""]).encode()


def test_a_report_of_a_host_beyond_the_bounds_is_an_error() -> None:
    assert len(report.parse(_report("T" * 100)).system) == 100
    with pytest.raises(AnswerError, match="in line 8: more than 100 characters"):
        report.parse(_report("T" * 101))
    with pytest.raises(AnswerError, match="more than 4096 bytes"):
        report.parse(_report("T" * 5000))


def test_an_answer_beyond_the_bounds() -> None:
    mark = f"\n{answer._MARK}\n"
    assert parse_answer(f"PRETTY_NAME={'T' * 199}{mark}".encode(), "web")
    with pytest.raises(AnswerError, match="more than 200 characters"):
        parse_answer(f"PRETTY_NAME={'T' * 201}{mark}".encode(), "web")
    with pytest.raises(AnswerError, match="more than 65536 bytes"):
        parse_answer(f"PRETTY_NAME=x\n{'T' * 70_000}{mark}".encode(), "web")


def _child(code: str, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-S", "-c", code, *words], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)


def test_a_time_beyond_the_bounds() -> None:
    with _child("print('9' * 5000)") as child, pytest.raises(GarbageError, match="more than 2048 bytes, expected a time"):
        clock._Talk("web", child).line()


def test_a_block_map_beyond_its_bound() -> None:
    with pytest.raises(ImageProblemError, match=f"more than {blockmap.MOST} bytes"):
        blockmap.parse(bytes(blockmap.MOST + 1), "x.bmap")


def test_a_list_of_missing_files_beyond_the_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_MOST_MISSING", 10_000)
    one: Any = SimpleNamespace(host=SimpleNamespace(name="web"), files=[SimpleNamespace(digest="0" * 64, size=5)])
    with _child("print(('0' * 64 + ' 1\\n') * 200)") as child, pytest.raises(GarbageError, match="more than 10000 bytes"):
        assert child.stdout is not None
        bundle._missing(child.stdout, one)


def test_the_end_of_a_programs_long_error_output_is_kept() -> None:
    with _child("import sys; sys.stderr.write('x' * 200_000 + 'no space')") as child:
        assert child.stderr is not None
        assert bundle._rest(child.stderr, "web").endswith(b"no space")


def test_a_program_that_writes_too_much_is_named() -> None:
    with pytest.raises(proc.OverrunError, match="yes: wrote more than 1000 bytes"):
        proc.run(["yes"], timeout=10, most=1000)


def test_a_tar_beyond_its_bounds_names_them() -> None:
    member = tarfile.TarInfo("x" * 70_000)
    with pytest.raises(tarfiles.DamagedTarError, match="longer than 65536 bytes"):
        tarfiles.read_tar(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024), most=10)
    member = tarfile.TarInfo("x" * 5000)
    with pytest.raises(tarfiles.DamagedTarError, match="a name of more than 4096 bytes"):
        tarfiles.read_tar(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024), most=10)


def test_the_result_of_an_attempt_may_come_late_in_the_output() -> None:
    """Where it was cut after 300 characters, a refusal looked like silence."""
    tried = Try("web", "resolve", "", name="x")
    said = f"0 1 {'Server: 192.168.2.1 ' * 100} Connection refused"
    assert _answers([tried], said)[0].result is Result.REACHED
    probe = (CHECKOUT / "runtime/audit/probe.sh").read_text()
    assert "cut -c" not in probe


def _apk(folder: Path, code: str) -> None:
    program = folder / "bin" / "apk"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (lambda copy: copy.choose(["a"], []), 20),
        (lambda copy: copy.check_packages([Path("/a.apk")]), 3),
    ],
    ids=["choose", "verify"],
)
def test_all_of_apks_reasons_are_shown(
    call: Callable[[Any], object], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    _apk(tmp_path, "for n in $(seq 1 50); do echo reason $n; done; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    state = HostState("x86_64", (), (), {}, b"", b"", "0" * 64, 0)
    with copy_of(state, "web") as copy, pytest.raises(TowerError) as caught:
        call(copy)
    assert f"reason {most}" in caught.value.message
    assert f"reason {most + 1}" not in caught.value.message
    assert f"... and {50 - most} more lines" in caught.value.message
