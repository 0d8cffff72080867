# SPDX-License-Identifier: Apache-2.0
"""Entries of hosts in the menu: what a `.desktop` file may say, and what of it gets into one of ours."""

from __future__ import annotations

import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import ValueRefusedError
from tower.menu import entries
from tower.menu.entries import Entry, clean, languages_of, parse, parse_command, quoted

GOOD = "[Desktop Entry]\nType=Application\nName=Editor\nExec=editor %U\nIcon=editor\n"


def entry(text: str, *languages: str) -> Entry | None:
    return parse("editor", text.encode(), languages)


def test_a_valid_entry_is_read() -> None:
    assert entry(GOOD) == Entry("editor", "Editor", ("editor",), "", "editor")
    more = "Categories=Utility;X-Odd;TextEditor;Utility;\nTryExec=/usr/bin/editor\nTerminal=false\nX_Odd key=1\n"
    assert entry(f"# first\n\n{GOOD}{more}\n[Desktop Action new]\nName=New\nExec=rm\n") == Entry(
        "editor", "Editor", ("editor",), "/usr/bin/editor", "editor", ("Utility",)
    )
    assert entry(GOOD.replace("\n", "\r\n")) == entry(GOOD)


@pytest.mark.parametrize(
    "line",
    [
        "NoDisplay=true", "Hidden=true", "Hidden=1", "Terminal=true", "OnlyShowIn=GNOME;KDE;", "OnlyShowIn=", "NotShowIn=labwc;",
        "NotShowIn=X;wlroots",
    ],
)  # fmt: skip
def test_hidden_and_terminal_entries_are_left_out(line: str) -> None:
    assert entry(f"{GOOD}{line}\n") is None


def test_entries_for_this_desktop_are_taken_and_other_types_are_not() -> None:
    for line in ("OnlyShowIn=GNOME;labwc;", "NotShowIn=GNOME;KDE", "NoDisplay=false", "DBusActivatable=true"):
        assert entry(f"{GOOD}{line}\n"), line
    for kind in ("Link", "Directory", "application", ""):
        assert entry(GOOD.replace("=Application", f"={kind}")) is None, kind
    assert entry(GOOD.replace("Exec=editor %U\n", "DBusActivatable=true\n")) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing"),
        ("Name=x\n" + GOOD, "begin"),
        ("[Other]\nName=x\n" + GOOD, "first"),
        (GOOD + GOOD, "twice"),
        (GOOD + "Name=b\n", "Name twice"),
        (GOOD + "no equals sign\n", "not one"),
        (GOOD + "Hidden=yes\n", "neither true nor false"),
        (GOOD + "Hidden=True\n", "neither true nor false"),
        (GOOD.replace("=Editor", "=Ed\\itor"), "escape"),
        (GOOD.replace("=Editor", "=Editor\\"), "escape"),
        (GOOD + "TryExec=a b\n", "TryExec"),
        (GOOD + "TryExec=$(reboot)\n", "TryExec"),
        ("[Desktop Entry]\n" + "#\n" * 6000, "lines"),
        (GOOD + "x" * (128 << 10), "bytes"),
    ],
)
def test_damaged_entries_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueRefusedError, match=why):
        entry(text)


def test_entries_that_are_not_utf_8_text_are_refused() -> None:
    for data in (b"\xff", GOOD.encode("utf-16"), GOOD.encode() + b"Name[de]=\xc3\n", b"\0" * 100):
        with pytest.raises(ValueRefusedError):
            parse("editor", data)


@pytest.mark.parametrize("id_", ["", "-a", ".a", "a/b", "../a", "a b", "a\n", "ä", "a" * 129])
def test_ids(id_: str) -> None:
    with pytest.raises(ValueRefusedError):
        parse(id_, GOOD.encode())


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("a", ["a"]),
        ("/usr/bin/a-1.2+3  -x --y=1 ", ["/usr/bin/a-1.2+3", "-x", "--y=1"]),
        ("a %f", ["a"]),
        ("a %F -- %u --file=%U", ["a", "--", "--file="]),
        ("a %i -caption %c %k %m %d %D %n %N %v", ["a", "-caption", "editor"]),
        ("a 100%%", ["a", "100%"]),
        ('"a" "b c" "" "50%%" "(x) & <y>; *?#~|"', ["a", "b c", "", "50%", "(x) & <y>; *?#~|"]),
        ("env A=1 a", ["env", "A=1", "a"]),
        ("a https://example.org/x,y@z:1", ["a", "https://example.org/x,y@z:1"]),
    ],
)
def test_commands(line: str, argv: list[str]) -> None:
    assert parse_command(line, "editor") == tuple(argv)


@pytest.mark.parametrize(
    "line",
    [
        "", " ", "%f", '""', "-a", "--help", "a=b", "./a", "../a", "/a/../../b/", "a/b", "a;b", "a|b", "a&b", "a>b",
        "$A", "a $A", "a `b`", "a $(b)", "a 'b'", "a b\\ c", "a ~", "a *", "a #", "a (b)", 'a "b', 'a "b"c', 'a b"c"',
        '"a', 'a "\\n"', 'a "$A"', 'a "`b`"', 'a "\\$A"', 'a "\\`b\\`"', 'a "\\"b\\""', 'a "\\\\b"', 'a "%f"',
        'a "%"', "a %", "a %x", "a %1", "a %%%", "ä", "a ä", "a \u202e", "a\nb", "a b\nc", "a\tb", "a \0",
        "a \x1b[2J", "a " + "b " * 64, "a " + "b" * 1025, "a \"it's\"",
    ],
)  # fmt: skip
def test_commands_that_are_refused(line: str) -> None:
    with pytest.raises(ValueRefusedError):
        parse_command(line, "editor")


def glib_words(text: str) -> list[str]:
    """A value of `Exec` as GLib splits it: like a shell, then field codes."""
    return [word.replace("%%", "%") for word in shlex.split(text)]


@given(st.text(max_size=60))
def test_whatever_is_taken_comes_out_as_the_same_words(line: str) -> None:
    try:
        argv = parse_command(line, "editor")
    except ValueRefusedError:
        return
    text = quoted(("tower", "run", "--window", "web", "--", *argv))
    assert text.isascii()
    assert text.isprintable()
    assert not set("`$'\\") & set(text)
    words = glib_words(text)
    assert words == ["tower", "run", "--window", "web", "--", *argv]
    assert parse_command(text, "other")[5:] == argv


@given(st.text(alphabet=st.sampled_from("a b%\"\\$`';|&-=/.fUc\u202e\n"), max_size=30))
def test_the_same_of_likely_characters(line: str) -> None:
    test_whatever_is_taken_comes_out_as_the_same_words.hypothesis.inner_test(line)  # type: ignore[attr-defined]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Galculator", "Galculator"),
        ("  A\tB\r\nC\u2028D\u00a0E ", "A B C D E"),
        ("\u202eevil\u2066\u200f\u200b\u00ad\ufeff\U000e0041", "evil"),
        ("\x1b[31mred\x07\x9b\0", "[31mred"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("\ue000\U0010ffff\ufffe", ""),
        ("e\u0301 e" + "\u0301" * 50, "\u00e9 \u00e9\u0301\u0301"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("x" * 100_000, "x" * 60),
        ("a" * 59 + " b", "a" * 59),
    ],
)
def test_names(text: str, shown: str) -> None:
    assert clean(text) == shown
    # One that has no name left is called by that of its file.
    found = entry(GOOD.replace("=Editor", f"={text.replace(chr(10), '').strip()}"))
    assert found is not None
    assert clean(found.name) == found.name != ""


@given(st.text(max_size=200))
def test_names_are_harmless(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert len(shown) <= entries.MOST_NAME
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for char in shown)
    assert entries.dump({"Name": shown}).count(b"\n") == 2


def test_languages() -> None:
    assert languages_of("sr_YU.UTF-8@Latn") == ("sr_YU@Latn", "sr_YU", "sr@Latn", "sr")
    assert languages_of("de_AT.UTF-8") == ("de_AT", "de")
    assert [languages_of(text) for text in ("", "C", "C.UTF-8", "POSIX", "../x", "de]\nExec")] == [()] * 6
    text = GOOD + "Name[de]=Texte\nName[de_CH]=T\\sCH\nName[fr]=\u202e\n"
    found = [entry(text, *languages_of(one)) for one in ("de_AT.UTF-8", "de_CH", "fr", "it")]
    assert [one.name for one in found if one] == ["Texte", "T CH", "Editor", "Editor"]


@pytest.mark.parametrize(
    ("text", "icon"),
    [
        ("org.example.A-1_b+c", "org.example.A-1_b+c"),
        ("editor.png", "editor"),
        ("editor.svg", "editor"),
        ("/usr/share/pixmaps/editor.png", "/usr/share/pixmaps/editor.png"),
        ("/usr/share/pixmaps/editor.xpm", ""),
        ("/usr/share/../../etc/shadow.png", ""),
        ("../../x", ""),
        ("a/../b", ""),
        ("a/b", ""),
        ("-rf", ""),
        ("a b", ""),
        ("a\\sb", ""),
        ("a*", ""),
        ("$(a)", ""),
        ("/dev/zero", ""),
        ("a" * 200, ""),
        ("/" + "a/" * 20 + "b.png", ""),
    ],
)
def test_icons(text: str, icon: str) -> None:
    found = entry(GOOD.replace("Icon=editor", f"Icon={text}"))
    assert found is not None
    assert found.icon == icon


def test_only_what_needs_no_escape_is_written() -> None:
    for word in ("a\nb", "a\0", '"', "\\", "$", "`", "'", "\u202e"):
        with pytest.raises(ValueRefusedError):
            quoted(("a", word))
    for value in ("a\nExec=b", "a\0", "\u202e"):
        with pytest.raises(ValueRefusedError):
            entries.dump({"Name": value})
    assert entries.dump({"Name": "a\\b"}) == b"[Desktop Entry]\nName=a\\\\b\n"
