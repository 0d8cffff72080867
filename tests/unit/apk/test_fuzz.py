# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come, reading ends with a package or with VerifyError: no other exception, no endless loop."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.apk.format import pkginfo
from pipeline.apk.format.index import parse_index_text, read_index
from pipeline.apk.format.installed import parse_installed
from pipeline.apk.format.package import read_package
from pipeline.apk.format.version import compare, is_valid, satisfies
from pipeline.base.errors import VerifyError
from tests.unit.apk.forge import END, Item, gz, item, package, raw_tar, stream

PAX = {"APK-TOOLS.checksum.SHA1": "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", "mtime": "1.5", "SCHILY.xattr.user.x": "y"}
ITEMS: list[Item] = [item("usr/a", b"test", pax_headers=PAX), item("usr/" + "b" * 120, b"more")]
DATA = raw_tar(ITEMS) + END
CONTROL = raw_tar([item(".PKGINFO", b"pkgname = a\npkgver = 1-r0\narch = noarch\ndatahash = " + b"0" * 64 + b"\n")])
EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.binary(min_size=0, max_size=12), st.integers(0, 600)), min_size=1, max_size=4
)


def edited(data: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """`data` with pieces put over, in, and out; checksums of tar headers are made right again."""
    for place, piece, cut in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + (len(piece) if cut < 500 else cut) :]
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % (sum(blocks[start : start + 512]) & 0o777777)
    return bytes(blocks)


def read(data: bytes) -> None:
    with suppress(VerifyError):
        for _entry, content in read_package(stream(data), None).iter_data():
            content.read()


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read(data)
    read(gz(data))
    with suppress(VerifyError):
        read_index(stream(gz(data)), None)
    with suppress(VerifyError):
        pkginfo.parse(data)
    with suppress(VerifyError):
        parse_installed(data)


@given(EDITS)
@settings(max_examples=300)
def test_edited_data(edits: list[tuple[int, bytes, int]]) -> None:
    read(package(data=gz(edited(DATA, edits), 1)))


@given(EDITS)
@settings(max_examples=200)
def test_edited_control(edits: list[tuple[int, bytes, int]]) -> None:
    read(gz(edited(CONTROL, edits), 1) + gz(DATA, 1))


@given(EDITS)
@settings(max_examples=200)
def test_edited_members(edits: list[tuple[int, bytes, int]]) -> None:
    read(edited(package(ITEMS), edits))


@given(
    st.lists(
        st.sampled_from(
            ["C:Q1" + "A" * 27 + "=", "P:a", "V:1", "F:a", "M:0:0:755", "R:b", "a:0:0:644", "Z:x", "", "k:-", "D:a b", "x:"]
        )
    )
)
def test_any_order_of_lines(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    with suppress(VerifyError):
        parse_index_text(text)
    with suppress(VerifyError):
        parse_installed(text.encode())


@given(st.text("0123456789.abcprv_-~r", max_size=12), st.text("0123456789.abcprv_-~r", max_size=12))
def test_any_version(a: str, b: str) -> None:
    if is_valid(a) and is_valid(b):
        assert compare(a, b) == -compare(b, a)
    for op in ("=", "<", "<=", ">", ">=", "~", "><"):
        assert satisfies(a, op, b) in (True, False)
