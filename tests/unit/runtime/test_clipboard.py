# SPDX-License-Identifier: Apache-2.0
"""The clipboard without its windows: what is removed from a host's contents, the policy and the log, messages, the command."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import StateError
from tower.base.names import THIN_CLIENT
from tower.cli import main
from tower.clipboard import journal, messages, policy
from tower.clipboard.content import MOST, Kind, UnfitError, clean
from tower.clipboard.journal import Transfer
from tower.clipboard.policy import Policy, Rule

# --- contents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("Grüße, 東京 🗼".encode(), "Grüße, 東京 🗼"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree"),
        (b"\x1b[201~rm -rf ~\n\x07\x00\x7f", "[201~rm -rf ~\n"),
        ("\x9b31m\u202egpj.exe\u2069".encode(), "31mgpj.exe"),
        (b"a\xff\xc3b", "a\ufffd\ufffdb"),
        ("\ufeffGrüße".encode("utf-16"), "\ufeffGrüße"),
    ],
)
def test_texts_lose_what_is_a_command_to_a_terminal(data: bytes, wanted: str) -> None:
    assert clean(Kind.TEXT, data).decode() == wanted


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("<p>a <b>bold</b> word</p>", "<p>a <b>bold</b> word</p>"),
        ("<p onclick='x()' style='y'>a</p>", "<p>a</p>"),
        ("a<script>alert('x')</script>b<style>c</style><svg><a>d</a></svg>", "ab"),
        ('<img src="http://tracker.example/x"><a href="https://example.org/?a=1&amp;b=2">link</a>',
         '<a href="https://example.org/?a=1&amp;b=2">link</a>'),
        ('<a href="javascript:alert(1)">x</a><a href=" data:text/html,x">y</a>', "<a>x</a><a>y</a>"),
        ("<ul><li>one<li>two", "<ul><li>one<li>two</li></li></ul>"),
        ("</p>a &lt;b&gt; \x1b[31m", "a &lt;b&gt; [31m"),
        ("<meta charset=utf-8><!-- secret --><table><tr><td>1</table>", "<table><tr><td>1</td></tr></table>"),
        ("a<br/>b<hr>", "a<br>b<hr>"),
    ],
)  # fmt: skip
def test_html_keeps_text_structure_and_links(page: str, wanted: str) -> None:
    assert clean(Kind.HTML, page.encode()).decode() == wanted


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int = 2,
    height: int = 2,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: int = 0,
    rows: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """A picture, of zeros unless its rows are given."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    rows = bytes(height * (1 + (width * channels * depth + 7) // 8)) if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_pictures_keep_their_pixels_and_nothing_else() -> None:
    for one in (png(), png(7, 3, depth=1, colour=0), png(5, 5, colour=6, depth=16), png(300, 200)):
        assert clean(Kind.PNG, one) == one
    # The seven parts of 3 by 3 pixels have 1, 0, 0, 1, 1, 2 and 3 pixels, in 1, 0, 0, 1, 1, 2, 1 rows.
    interlaced = png(3, 3, colour=0, interlaced=1, rows=bytes(1 + 1 + 2 + 1 + 2 + 2 + 2 + 3 + 1))
    assert clean(Kind.PNG, interlaced) == interlaced
    assert clean(Kind.PNG, png(more=chunk(b"tEXt", b"Comment\0secret") + chunk(b"iCCP", b"x"))) == png()
    assert clean(Kind.PNG, png() + b"a program") == png()


BAD_PICTURES = {
    "nothing": b"",
    "a text": b"hello",
    "its mark alone": png()[:8],
    "cut off": png()[:-5],
    "without its end": png()[:-12],
    "without pixels": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
    "a wrong checksum": png()[:-1] + b"x",
    "a lying length": png().replace(struct.pack(">I", 13), struct.pack(">I", 0x7FFFFFFF), 1),
    "the largest size": png(0x7FFFFFFF, 0x7FFFFFFF, rows=b""),
    "many pixels": png(16000, 16000, rows=b""),
    "a side of 0": png(0, 1, rows=b""),
    "more pixels than it says": png(2, 2, rows=bytes(10_000_000)),
    "fewer pixels than it says": png(200, 200, rows=bytes(10)),
    "an odd depth": png(depth=3),
    "an odd colour": png(colour=5),
    "two headers": png(more=chunk(b"IHDR", bytes(13))),
    "pixels that are not packed": b"\x89PNG\r\n\x1a\n" + png()[8:33] + chunk(b"IDAT", b"xxxx") + chunk(b"IEND", b""),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_PICTURES)
def test_a_picture_that_is_not_what_it_says_does_not_pass(what: str) -> None:
    with pytest.raises(UnfitError):
        clean(Kind.PNG, BAD_PICTURES[what])


@pytest.mark.parametrize("kind", Kind)
def test_there_is_a_limit_and_nothing_is_no_content(kind: Kind) -> None:
    for data in (b"x" * (MOST + 1), b""):
        with pytest.raises(UnfitError):
            clean(kind, data)
    with pytest.raises(UnfitError):
        clean(Kind.HTML, b"&" * (MOST // 2))  # it would be longer than it was


@given(st.sampled_from(Kind), st.binary(max_size=300))
def test_whatever_a_host_copies_is_refused_or_harmless(kind: Kind, data: bytes) -> None:
    try:
        found = clean(kind, data)
    except UnfitError:
        return
    assert not set(found.decode()) & {"\x1b", "\0", "\r", "\x9b", "\u202e"}
    assert clean(kind, found) == found


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "</", "<!--", "a", "b", "p", "script", " href=", "'", '"', "&", "#x1b;", "<![CDATA[", "<?", "x"]
        )
    )
)
def test_no_script_survives_odd_html(parts: list[str]) -> None:
    try:
        found = clean(Kind.HTML, "".join(parts).encode()).decode()
    except UnfitError:
        return
    assert "<script" not in found
    assert "<!" not in found
    assert "\x1b" not in found


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_pictures_end_in_our_words(data: bytes, place: int) -> None:
    whole = png(8, 8)
    damaged = whole[:place] + data + whole[place + len(data) :]
    try:
        assert clean(Kind.PNG, damaged) == whole
    except UnfitError:
        assert damaged != whole


# --- the policy -------------------------------------------------------------------------------------------------


def test_by_default_hosts_get_from_each_other_what_is_sent() -> None:
    rules = Policy()
    assert rules.rule(THIN_CLIENT, "web") is rules.rule("web", THIN_CLIENT) is Rule.ON
    assert rules.rule("web", "web") is Rule.ON
    assert rules.rule("web", "vault") is Rule.OFF
    assert rules.rule("web", "vault", sent=True) is Rule.ON
    assert rules.rule("vault", "web", sent=True, leaves=True) is Rule.ASK


def test_a_rule_of_a_pair_goes_before_all_others() -> None:
    rules = Policy(share_all=True, pairs={("web", "vault"): Rule.OFF, (THIN_CLIENT, "web"): Rule.ASK})
    assert rules.rule("web", "vault", sent=True) is Rule.OFF
    assert rules.rule(THIN_CLIENT, "web") is Rule.ASK
    assert rules.rule("vault", "web", leaves=True) is Rule.ON
    assert Policy(pairs={("vault", "web"): Rule.ON}).rule("vault", "web", leaves=True) is Rule.ON


def test_a_policy_comes_back_as_it_was_written(tmp_path: Path) -> None:
    place = tmp_path / "new" / "clipboard"
    assert policy.read(place) == Policy()
    wanted = Policy(share_all=True, clear=0, pairs={("web", THIN_CLIENT): Rule.ASK, ("a", "b"): Rule.OFF})
    policy.write(place, wanted)
    assert policy.read(place) == wanted
    assert (place / "policy.json").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


GOOD: dict[str, Any] = {"version": 1, "share_all": False, "clear_seconds": 300, "pairs": [{"from": "a", "to": "b", "rule": "on"}]}
_ODD: dict[str, tuple[Any, ...]] = {
            "version": (2, True, "1"),
            "share_all": (1, 1.0, "yes", None),
            "clear_seconds": (-1, 1e9, "300", True, 10**30),
            "pairs": ({}, [1], [{}], [{"from": "a", "to": "b"}], [{"from": "a", "to": "b", "rule": "maybe"}],
                      [{"from": "a", "to": "b", "rule": ["on"]}], [{"from": "../a", "to": "b", "rule": "on"}],
                      [{"from": "a\x1b", "to": "b", "rule": "on"}], GOOD["pairs"] * 2),
}  # fmt: skip
BAD_POLICIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "binary": bytes(range(256)),
    "nested": b"[" * 100_000,
    "a key too many": json.dumps({**GOOD, "more": 1}).encode(),
    "a key too few": json.dumps({"version": 1}).encode(),
    **{f"{name} {value!r}": json.dumps({**GOOD, name: value}).encode() for name, values in _ODD.items() for value in values},
}


@pytest.mark.parametrize("what", BAD_POLICIES)
def test_a_damaged_policy_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(BAD_POLICIES[what])
    with pytest.raises(StateError, match=r"policy\.json") as caught:
        policy.read(tmp_path)
    assert "tower clipboard policy default" in caught.value.hint


# --- the log ----------------------------------------------------------------------------------------------------


def entry(number: int) -> Transfer:
    return Transfer(journal.now(), "web", THIN_CLIENT, Kind.TEXT, number, "window")


def test_lines_come_back_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []
    for number in range(3):
        journal.add(tmp_path / "new", entry(number))
    assert [one.size for one in journal.read(tmp_path / "new")] == [0, 1, 2]
    assert (tmp_path / "new/log").stat().st_mode & 0o777 == 0o600


def test_the_log_has_a_limit_and_loses_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST", 2000)
    for number in range(100):
        journal.add(tmp_path, entry(number))
    found = [one.size for one in journal.read(tmp_path)]
    assert found == list(range(found[0], 100))
    assert 5 < len(found) < 20


def test_a_line_that_came_incomplete_is_dropped(tmp_path: Path) -> None:
    journal.add(tmp_path, entry(1))
    journal.add(tmp_path, entry(2))
    whole = (tmp_path / "log").read_bytes()
    for cut in (1, 10, len(whole) // 2 - 1):
        (tmp_path / "log").write_bytes(whole[:-cut])
        assert [one.size for one in journal.read(tmp_path)] == [1]
        journal.add(tmp_path, entry(3))
        assert [one.size for one in journal.read(tmp_path)] == [1, 3]
    (tmp_path / "log").write_bytes(b"{")
    journal.add(tmp_path, entry(4))
    assert [one.size for one in journal.read(tmp_path)] == [4]


LINE = {"time": "x", "origin": "a", "target": "b", "kind": "text", "size": 1, "how": "window"}


@pytest.mark.parametrize(
    "line",
    [b"x", b"[]", b"{}", b"\xff", json.dumps({**LINE, "size": -1}).encode(), json.dumps({**LINE, "size": True}).encode(),
     json.dumps({**LINE, "how": "stolen"}).encode(), json.dumps({**LINE, "kind": 1}).encode(),
     json.dumps({**LINE, "how": []}).encode()],
)  # fmt: skip
def test_a_damaged_log_is_refused(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(json.dumps(LINE).encode() + b"\n" + line + b"\n")
    with pytest.raises(StateError, match="line 2 is not a transfer"):
        journal.read(tmp_path)


# --- messages ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9)), max_size=4), st.integers(1, 40))
def test_messages_come_back_however_they_are_cut(given: list[tuple[str, bytes]], step: int) -> None:
    sent = b"".join(messages.packed(data, do=text) for text, data in given)
    held, found = bytearray(), []
    for place in range(0, len(sent), step):
        held += sent[place : place + step]
        found += [(words["do"], data) for words, data in messages.unpacked(held)]
    assert found == given
    assert not held


@given(st.binary(max_size=100))
def test_odd_messages_are_refused_or_waited_for(data: bytes) -> None:
    held = bytearray(data)
    try:
        for words, _ in messages.unpacked(held):
            assert isinstance(words, dict)
    except messages.WireError:
        pass


@given(st.dictionaries(st.sampled_from(Kind), st.binary(max_size=9)))
def test_contents_come_back(content: dict[Kind, bytes]) -> None:
    sizes, data = messages.joined(content)
    assert messages.parted(sizes, data) == content
    for odd in ({**sizes, "video/mp4": 0}, {**sizes, Kind.TEXT: 10**9}, {**sizes, Kind.TEXT: -1}):
        with pytest.raises(messages.WireError):
            messages.parted(odd, data)


# --- the command ------------------------------------------------------------------------------------------------


def test_a_policy_is_set_and_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["clipboard", "policy", "share-all", "--clear", "60"]) == 0
    assert main.main(["clipboard", "policy", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said == {"share_all": True, "clear_seconds": 60, "pairs": []}
    assert main.main(["clipboard", "policy", "default"]) == 0
    assert policy.read(home / ".local/tower/clipboard") == Policy()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("policy", "web"), 10),
        (("policy", "web", "vault", "perhaps"), 10),
        (("policy", "thinclient", "thinclient", "on"), 10),
        (("policy", "nobody", "thinclient", "on"), 11),
        (("policy", "\x1b", "thinclient", "on"), 10),
        (("policy", "default", "--clear", "-1"), 2),
        (("log", "web"), 10),
        (("send",), 10),
        (("send", "web"), 11),
    ],
)
def test_odd_words_are_refused(words: tuple[str, ...], status: int, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found: object = main.main(["clipboard", *words])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert "\x1b" not in capsys.readouterr().err
    assert not (home / ".local/tower/clipboard/policy.json").exists()
