# SPDX-License-Identifier: Apache-2.0
"""Versions: held against the answers of the real apk, and against the laws of an order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.apk.format.index import read_index
from pipeline.apk.format.version import compare, is_valid, satisfies
from pipeline.base.errors import FormatError

SIGNS = {"<": -1, "=": 0, ">": 1}
REAL = [
    tuple(line.split(" "))
    for line in (Path(__file__).parent / "versions.txt").read_text().splitlines()
    if not line.startswith("#")
]
NUMBER = st.sampled_from(["0", "1", "2", "10", "01", "001", "02", "010", "20240101"])
SUFFIX = st.builds(
    "_{}{}".format,
    st.sampled_from(["alpha", "beta", "pre", "rc", "cvs", "svn", "git", "hg", "p"]),
    st.one_of(st.just(""), NUMBER),
)
VERSION = st.builds(
    "{}{}{}{}{}".format,
    st.lists(NUMBER, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", "", "a", "b", "p1"]),
    st.lists(SUFFIX, max_size=2).map("".join),
    st.sampled_from(["", "", "", "~ab12"]),
    st.sampled_from(["", "-r0", "-r1", "-r10"]),
)


def test_as_the_real_apk_orders() -> None:
    assert len(REAL) >= 400
    wrong = [(a, sign, b) for a, sign, b in REAL if compare(a, b) != SIGNS[sign] or compare(b, a) != -SIGNS[sign]]
    assert not wrong


@given(VERSION, VERSION, VERSION)
def test_versions_have_a_total_order(a: str, b: str, c: str) -> None:
    assert compare(a, a) == 0
    assert compare(a, b) == -compare(b, a)
    low, middle, high = sorted_versions(a, b, c)
    assert compare(low, middle) <= 0
    assert compare(middle, high) <= 0
    assert compare(low, high) <= 0


def sorted_versions(a: str, b: str, c: str) -> tuple[str, str, str]:
    """Three versions by pairwise exchange."""
    if compare(a, b) > 0:
        a, b = b, a
    if compare(b, c) > 0:
        b, c = c, b
    if compare(a, b) > 0:
        a, b = b, a
    return a, b, c


@given(VERSION)
def test_generated_are_valid(version: str) -> None:
    assert is_valid(version)
    assert satisfies(version, "=", version)
    assert satisfies(version, "~", version)


@pytest.mark.parametrize(
    "text",
    ["", "a", "1.", ".1", "1..2", "1_", "1_foo", "1_alphax", "1-", "1-r", "1-rx", "1-r1-r2", "1-r1a", "1A", "1.2aa", "1.a",
     "1a.2", "v1", "1~", "1~xyz", "1-r1~ab", "1 ", " 1", "1\n", "1_p_", "1.2.3-1", "-r1", "1:2", "1+b", "\u0661"],
)  # fmt: skip
def test_invalid(text: str) -> None:
    assert not is_valid(text)
    with pytest.raises(FormatError, match="not an Alpine version"):
        compare(text, "1")
    with pytest.raises(FormatError, match="not an Alpine version"):
        compare("1", text)


@pytest.mark.parametrize("older, newer", [("1.2~aa", "1.2~ab"), ("1.2", "1.2~aa"), ("1.2~ff-r1", "1.2~ff-r2"), ("1.2~ff", "1.3")])
def test_commit_hashes(older: str, newer: str) -> None:
    assert compare(older, newer) == -1
    assert compare(newer, older) == 1


@pytest.mark.parametrize(
    "version, op, wanted, answer",
    [
        ("1.2", "=", "1.2", True), ("1.2", "=", "1.2-r0", False), ("1.2", "<", "1.3", True), ("1.3", "<", "1.3", False),
        ("1.3", "<=", "1.3", True), ("1.4", "<=", "1.3", False), ("1.4", ">", "1.3", True), ("1.3", ">", "1.3", False),
        ("1.3", ">=", "1.3", True), ("1.2", ">=", "1.3", False),
        ("1.2.3", "~", "1.2", True), ("1.2-r5", "~", "1.2", True), ("1.2_rc1", "~", "1.2", True), ("1.2a", "~", "1.2", True),
        ("1.20", "~", "1.2", False), ("1.2", "~", "1.2.3", False), ("1.3", "~", "1.2", False), ("1.2-r52", "~", "1.2-r5", False),
        ("1.02", "~", "1.0", False), ("2", "~", "1", False),
        ("1.2.9", "<~", "1.2", True), ("1.1", "<~", "1.2", True), ("1.3", "<~", "1.2", False), ("1.3", ">~", "1.2", True),
        ("Q1abc", "><", "Q1abc", True), ("Q1abc", "><", "Q1abd", False),
        ("0..0", "=", "0..0", True), ("0..0", "<", "1", False), ("1", ">", "v2", False), ("v2", "<=", "v2", True),
        ("v2", "~", "v2", False),
    ],
)  # fmt: skip
def test_satisfies(version: str, op: str, wanted: str, answer: bool) -> None:
    assert satisfies(version, op, wanted) is answer


def test_unknown_operator() -> None:
    with pytest.raises(FormatError, match="operator"):
        satisfies("1", "!=", "1")


def test_all_of_alpine_are_valid(alpine: Path) -> None:
    for branch in ("main", "community"):
        with (alpine / branch / "x86_64" / "APKINDEX.tar.gz").open("rb") as stream:
            assert [entry.version for entry in read_index(stream, None).entries if not is_valid(entry.version)] == []
