# SPDX-License-Identifier: Apache-2.0
"""What a host says of its packages: read when it is well-formed, refused or left out when it is not."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import AnswerError, TowerError
from tower.install.repository import Repository, parse_repositories, parse_state

GOOD = {
    "arch": b"aarch64\n",
    "digest": b"0" * 64 + b"\n",
    "installed": b"C:Q1x\nP:musl\nV:1.2-r0\nT:a\x1b[2J\nF:lib\nM:0:0:0755\nx:new\n\n",
    "keys/alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub": b"KEY",
    "repositories": b"# mine\nhttps://mirror.test/alpine/v3.24/main\n/media/sda1/apks\n",
    "serial": b"7\n",
    "world": b"musl\n!busybox\nnano>=8\nso:libc.musl-x86_64.so.1\n",
}


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_good_state() -> None:
    state = parse_state(archive(GOOD), "web")
    assert (state.arch, state.serial, state.digest) == ("aarch64", 7, "0" * 64)
    assert [one.address for one in state.repositories] == ["https://mirror.test/alpine/v3.24/main"]
    assert state.left_out == ("repository '/media/sda1/apks', which is not on a server",)
    assert state.keys == {"alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub": b"KEY"}
    assert state.world == GOOD["world"]
    # Files and what is not text do not reach our apk.
    assert state.installed == b"C:Q1x\nP:musl\nV:1.2-r0\nT:a?[2J\n\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("arch", b"x86 64", "as its architecture"),
        ("arch", b"../../x", "as its architecture"),
        ("digest", b"f00", "as its digest"),
        ("serial", b"-1", "as its serial number"),
        ("serial", b"1" * 30, "as its serial number"),
        ("world", b"--allow-untrusted", "not the name of a package"),
        ("world", b"a;b", "not the name of a package"),
    ],
)
def test_a_state_that_makes_no_sense(name: str, content: bytes, says: str) -> None:
    with pytest.raises(AnswerError, match=says):
        parse_state(archive({**GOOD, name: content}), "web")


@pytest.mark.parametrize("name", ["arch", "digest", "installed", "repositories", "serial", "world"])
def test_a_state_without_a_part(name: str) -> None:
    with pytest.raises(AnswerError, match=f"does not send its {name}"):
        parse_state(archive({key: value for key, value in GOOD.items() if key != name}), "web")


def test_foreign_files_are_left_out() -> None:
    more = {"keys/../../x.pub": b"k", "/etc/passwd": b"p", "keys/a b.pub": b"k", "keys/big.pub": b"k" * 20000, "keys/x": b"k"}
    assert set(parse_state(archive({**GOOD, **more}), "web").keys) == {"alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub"}
    with pytest.raises(AnswerError, match="more than 200 files"):
        parse_state(archive({**GOOD, **{f"keys/{number}.pub": b"k" for number in range(300)}}), "web")


def test_a_link_is_no_file() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in GOOD:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(AnswerError, match="does not send its"):
        parse_state(out.getvalue(), "web")


def test_heads_that_are_nested_without_end() -> None:
    head = tarfile.TarInfo("x")
    head.type = tarfile.GNUTYPE_LONGNAME
    with pytest.raises(AnswerError, match="not an archive"):
        parse_state(head.tobuf(tarfile.GNU_FORMAT) * 5000, "web")


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_by_our_errors(data: bytes) -> None:
    with pytest.raises(TowerError):
        parse_state(data, "web")


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.binary(max_size=300)))
def test_any_content_is_read_or_refused(changes: dict[str, bytes]) -> None:
    try:
        state = parse_state(archive({**GOOD, **changes}), "web")
    except AnswerError:
        return
    assert all(line[1:2] == b":" for line in state.installed.split(b"\n") if line)
    assert b"\x1b" not in state.installed


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("http://a.test/x", Repository("http", "a.test", 80, "/x", "")),
        ("https://a.test:8443/x/", Repository("https", "a.test", 8443, "/x", "")),
        ("@edge https://a.test/x", Repository("https", "a.test", 443, "/x", "@edge")),
        ("v3 https://a.test/x", Repository("https", "a.test", 443, "/x", "", 3)),
        ("v3 @edge https://a.test/x", Repository("https", "a.test", 443, "/x", "@edge", 3)),
        ("v2 @edge https://a.test/x", Repository("https", "a.test", 443, "/x", "@edge")),
        ("http://A.test", Repository("http", "a.test", 80, "", "")),
    ],
)
def test_a_repository(line: str, found: Repository) -> None:
    assert parse_repositories(f"\n# no\n{line}\n{line}\n") == ((found,), ())


@pytest.mark.parametrize(
    "line",
    [
        "ftp://a.test/x",
        "/media/x",
        "file:///x",
        "http://",
        "http://a b/x",
        "http://u:p@a.test/x",
        "http://a.test/x?y",
        "http://a.test/x#y",
        "http://a.test:99999/x",
        "http://-a.test/x",
        "http://a.test/$(id)",
        "http://[::1]/x",
        "@ http://a.test/x",
        "@edge v3 http://a.test/x",
        "v4 http://a.test/x",
        "v3",
        "@a;b http://a.test/x",
        "https://a.test/é",
    ],
)
def test_lines_without_a_usable_repository_are_returned_as_they_are(line: str) -> None:
    assert parse_repositories(line) == ((), (line,))
