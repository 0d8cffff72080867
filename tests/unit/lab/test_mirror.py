# SPDX-License-Identifier: Apache-2.0
"""Which Debian mirror the lab takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError
from pipeline.channels.lab.debian import SETTING, find_mirror, is_debian, parse_deb822, parse_one_line

OWN = "http://mirror.example/debian"
DEB822 = f"""# made by an installer
Types: deb deb-src
# a comment inside
URIs: {OWN}/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def etc(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        target = (
            tmp_path / f"{stem}.{suffix}"
            if stem == "sources" and suffix == "list"
            else tmp_path / "sources.list.d" / f"{stem}.{suffix}"
        )
        target.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deb http://a.example/debian trixie main", ["http://a.example/debian"]),
        (
            "deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://a.example/debian trixie main contrib",
            ["http://a.example/debian"],
        ),
        ("# deb http://a.example/debian trixie main", []),
        ("deb-src http://a.example/debian trixie main", []),
        ("deb http://a.example/debian", []),
        ("nonsense", []),
        ("", []),
        ("deb http://a.example/debian trixie main # comment", ["http://a.example/debian"]),
    ],
)
def test_one_line_format(text: str, expected: list[str]) -> None:
    assert [source.uri for source in parse_one_line(text)] == expected


def test_deb822_format() -> None:
    (source,) = parse_deb822(DEB822)
    assert source.suites == ("bookworm", "bookworm-updates")
    assert source.components == ("main",)
    assert is_debian(source)


@pytest.mark.parametrize(
    "change", [("Types: deb deb-src", "Types: deb-src"), ("Components: main", "Components: main\nEnabled: no")]
)
def test_deb822_sources_that_are_off(change: tuple[str, str]) -> None:
    assert list(parse_deb822(DEB822.replace(*change))) == []


def test_deb822_with_a_key_inside() -> None:
    text = DEB822.replace(
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg", "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ"
    )
    (source,) = parse_deb822(text)
    assert not is_debian(source)


@pytest.mark.parametrize(
    "line",
    [
        "deb https://packages.example/linux/debian bookworm stable",
        "deb https://apt.example/repos bookworm-pgdg main",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://packages.example/runner/debian bookworm main",
        "deb http://mirror.example/ubuntu noble main",
        "deb http://mirror.example/debian-security bookworm-security main",
        "deb https://vendor.example/tools bookworm main",
    ],
)
def test_other_repositories_are_not_debian(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no source of Debian") as caught:
        find_mirror(etc=etc(tmp_path, sources_list=line), environ={})
    assert SETTING in caught.value.hint


def test_the_machines_own_sources_are_read_in_apts_order(tmp_path: Path) -> None:
    folder = etc(
        tmp_path,
        b_sources=DEB822,
        a_list="deb https://vendor.example/x stable main",
        c_list="deb http://late.example/debian sid main",
    )
    assert find_mirror(etc=folder, environ={}) == OWN


def test_environment_goes_before_setting_and_that_before_the_machine(tmp_path: Path) -> None:
    folder = etc(tmp_path, b_sources=DEB822)
    assert find_mirror("http://set.example/d", etc=folder, environ={}) == "http://set.example/d"
    assert find_mirror("http://set.example/d", etc=folder, environ={SETTING: "https://env.example/d/"}) == "https://env.example/d"


def test_mirror_lists_of_cloud_images(tmp_path: Path) -> None:
    listed = tmp_path / "debian.list"
    listed.write_text(f"# one a line\n{OWN}\nhttp://second.example/debian\n")
    folder = etc(tmp_path, b_sources=DEB822.replace(f"{OWN}/", f"mirror+file:{listed}"))
    assert find_mirror(etc=folder, environ={}) == OWN


@pytest.mark.parametrize(
    "named", ["ftp://a.example/debian", "a.example/debian", "http:///debian", "file:/srv/debian", "mirror+file:/none"]
)
def test_addresses_that_cannot_be_fetched_from(named: str) -> None:
    with pytest.raises(ConfigError):
        find_mirror(environ={SETTING: named})
