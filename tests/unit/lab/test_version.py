# SPDX-License-Identifier: Apache-2.0
"""Debian's versions in Alpine's form."""

from __future__ import annotations

from functools import cmp_to_key
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.apk.format.version import compare, is_valid
from pipeline.channels.lab.debian_version import alpine_version

TABLE = [
    ("1:1.37.0-6+b9", "1.37.0-r609"),
    ("2.41-12+deb13u4", "2.41-r1240"),
    ("1:10.0p1-7+deb13u4", "10.0_p1-r740"),
    ("6.5+20250216-2", "6.5_p20250216-r200"),
    ("2025b-4", "2025b-r400"),
    ("2026c-0+deb13u1", "2026c-r10"),
    ("1.1.1w-0", "1.1.1w-r0"),
    ("3.0~rc2-1", "3.0_rc2-r100"),
    ("3.0~beta1+dfsg-1", "3.0_beta1-r100"),
    ("1.2.3a2-1", "1.2.3_p2-r100"),
    ("1:1.3.dfsg+really1.3.1-1+b1", "1.3.1-r101"),
    ("20250419", "20250419-r0"),
    ("3:6.04~git20190206.bf6db5b4+dfsg1-3.1", "6.04_pre20190206"),
    ("0.12+git20190418.d9e1b0f-2", "0.12_git20190418"),
    ("1.20240424+ds-6", "1.20240424-r600"),
    ("13.0.0", "13.0.0-r0"),
    ("r2389-1", "2389-r100"),
]


@pytest.mark.parametrize(("debian", "alpine"), TABLE)
def test_table(debian: str, alpine: str) -> None:
    assert alpine_version(debian).startswith(alpine)
    assert is_valid(alpine_version(debian))


@pytest.mark.parametrize(
    "rising",
    [
        ["1.0~rc1-1", "1.0-1", "1.0-1+b1", "1.0-1+b2", "1.0-1+deb13u1", "1.0-1+deb13u2", "1.0-2", "1.1-1", "1.10-1"],
        ["9.9p1-1", "9.9p2-1", "10.0p1-1"],
        ["2025a-1", "2025b-1", "2026a-1"],
        ["257.8-1~deb13u2", "257.9-1~deb13u1"],
    ],
)
def test_order_is_kept(rising: list[str]) -> None:
    versions = [alpine_version(item) for item in rising]
    assert sorted(versions, key=cmp_to_key(compare)) == versions
    assert all(compare(one, two) < 0 for one, two in pairwise(versions))


@given(st.from_regex(r"\A([0-9]:)?[0-9][A-Za-z0-9.+~]{0,20}(-[A-Za-z0-9.+~]{1,10})?\Z"))
def test_every_version_becomes_a_valid_one(debian: str) -> None:
    assert is_valid(alpine_version(debian)), alpine_version(debian)
