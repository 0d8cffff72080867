# SPDX-License-Identifier: Apache-2.0
"""Time zones and keyboards: what there is is taken, what there is not is refused with what is near."""

from __future__ import annotations

from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.base.names import parse_keyboard, parse_time_zone
from tower.cli import main
from tower.hosts import known

ZONES = ("UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+3", "Europe/Kyiv", "Europe/Kiev", "US/Pacific", "CET")
KEYBOARDS = (("us", ""), ("us", "us"), ("fr", "fr-bepo"), ("de", "de-T3"), ("ch", "ch-fr"), ("latam", ""), ("jp", "jp-OADG109A"))


def test_the_lists_are_well_formed() -> None:
    zones, keyboards = known._rows("zones.txt"), known._keyboards()
    assert len(zones) > 500
    assert len(keyboards) > 90
    assert sum(map(len, keyboards.values())) > 400
    for zone in zones:
        assert parse_time_zone(zone) == zone
    for layout, names in keyboards.items():
        for name in ("", *names):
            assert parse_keyboard(f"{layout}-{name}" if name else layout)


@pytest.mark.parametrize("zone", ZONES)
def test_time_zones(tmp_path: Path, zone: str) -> None:
    assert known.time_zone(zone, tmp_path) == zone


@pytest.mark.parametrize(("layout", "variant"), KEYBOARDS)
def test_keyboards(tmp_path: Path, layout: str, variant: str) -> None:
    assert known.keyboard(layout, variant, tmp_path) == (layout, variant or layout)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Europe/Pariss", "Europe/Paris"), ("europe/paris", "Europe/Paris"), ("Paris", "Europe/Paris"),
        ("Berln", "Europe/Berlin"), ("America/New-York", "America/New_York"), ("Amerika/Chicago", "America/Chicago"),
        ("utc", "UTC"), ("Asia/Kolkatta", "Asia/Kolkata"),
        ("Qqqqqq/Zzzzzz", "for example"), ("", "for example"), ("../etc/passwd", "for example"),
    ],
)  # fmt: skip
def test_unknown_time_zones(tmp_path: Path, text: str, near: str) -> None:
    with pytest.raises(ValueRefusedError, match="is not a time zone") as raised:
        known.time_zone(text, tmp_path)
    assert near in raised.value.hint


@pytest.mark.parametrize(
    ("layout", "variant", "near"),
    [
        ("uk", "", "gb, ua"), ("US", "", "us"), ("german", "", "de"), ("latm", "", "latam"), ("xx", "", "for example"),
        ("../us", "", "us"), ("", "", "for example"),
        ("fr", "bepo", "fr-bepo"), ("us", "bepo", "fr-bepo"), ("fr", "de-neo", "de-neo"), ("de", "de-nodeadkey", "de-nodeadkeys"),
        ("al", "al-x", "al-plisi"), ("de", "de-t3", "de-T3"), ("eu", "eu-x", "not a keyboard"), ("fr", "../fr", "fr-"),
    ],
)  # fmt: skip
def test_unknown_keyboards(tmp_path: Path, layout: str, variant: str, near: str) -> None:
    with pytest.raises(ValueRefusedError) as raised:
        known.keyboard(layout, variant, tmp_path)
    assert near in str(raised.value)


def test_zones_and_keyboards_of_this_system_are_accepted_too(tmp_path: Path) -> None:
    for name in ("usr/share/zoneinfo/Mars/Olympus", "usr/share/bkeymaps/new/new-one.bmap.gz", "etc/keymap/own-map.bmap.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    assert known.time_zone("Mars/Olympus", tmp_path) == "Mars/Olympus"
    assert known.keyboard("new", "new-one", tmp_path) == ("new", "new-one")
    assert known.keyboard("own", "own-map", tmp_path) == ("own", "own-map")
    for variant in ("new-two", "", "own-map"):
        with pytest.raises(ValueRefusedError):
            known.keyboard("new", variant, tmp_path)


@pytest.mark.parametrize(
    ("words", "row"),
    [
        (("--keyboard-layout", "de"), "de de"),
        (("--keyboard-variant", "de-neo"), "de de-neo"),
        (("--keyboard-layout", "fr", "--keyboard-variant", "fr-bepo"), "fr fr-bepo"),
    ],
)
def test_known_layouts_are_accepted(
    home: Path, small_image: Path, words: tuple[str, ...], row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ("--offline", "--username", "al", "--unsigned", "--image", str(small_image), "--device-file", "o", "--dry-run")
    assert main.main(["provision", "vault", *wish, *words]) == 0
    assert f" {row}\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--timezone", "Europe/Pari"), ("--keyboard-layout", "uk"), ("--keyboard-variant", "bepo")])
def test_unknown_names_are_refused(home: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["provision", "vault", "--offline", "--username", "al", *words]) == 10
    assert "hint: is it one of: " in capsys.readouterr().err
