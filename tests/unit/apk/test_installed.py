# SPDX-License-Identifier: Apache-2.0
"""The database of installed packages: what apk wrote is written back byte by byte."""

from __future__ import annotations

import pytest

from pipeline.apk.format.installed import InstalledFile, InstalledFolder, dump_installed, parse_installed
from pipeline.base.errors import FormatError

SUM = "Q1qvTGHdzF6KLavt4PO0gs2a6pQ00="
HEAD = f"C:{SUM}\nP:hello\nV:1.0-r0\n"
# As apk-tools 2.14.4 wrote it when it installed one of our packages.
REAL = f"""\
C:{SUM}
P:hello
V:1.0-r0
A:x86_64
S:2050
I:1032
T:A test — with ü
U:https://example.org
L:MIT
m:A <a@b.c>
t:1700000000
k:5
D:busybox
p:cmd:hello=1.0-r0
r:busybox
q:3
s:edge
f:fS
F:
R:aaa
Z:Q1TXbbYakr1sNlQ2a1gjW85ZtLWKE=
F:etc
R:secret
a:0:42:640
Z:Q1oPFJCiDQIRyZe0S8NX4Zct6riuM=
F:usr
F:usr/bin
R:hello
a:0:0:755
Z:Q1nbbwdPygqQMTe5HHyGayHU5yBac=
R:no-checksum
F:var/tmpx
M:0:0:1777

"""


def test_round_trip() -> None:
    (package,) = parse_installed(REAL.encode())
    assert dump_installed([package]) == REAL.encode()
    assert dump_installed([package, package]) == REAL.encode() * 2
    assert package.extra == (("s", "edge"), ("f", "fS"))
    assert package.paths == ("aaa", "etc/secret", "usr/bin/hello", "usr/bin/no-checksum")
    assert package.folders[1] == InstalledFolder(
        "etc", files=(InstalledFile("secret", 0, 42, 0o640, package.folders[1].files[0].checksum),)
    )
    assert package.folders[-1] == InstalledFolder("var/tmpx", mode=0o1777)
    assert package.entry.provider_priority == 5
    assert package.entry.replaces_priority == 3
    assert parse_installed(b"") == ()


@pytest.mark.parametrize(
    "text, reason",
    [
        (HEAD, "truncated"),
        ("\udcff\n\n", "not UTF-8"),
        ("P:hello\n\n", "db:1: lacks C:"),
        (HEAD + "nonsense\n\n", "db:4: not 'letter:value'"),
        (HEAD + "P:other\n\n", "field P: occurs twice"),
        (HEAD + "R:x\n\n", "R: without"),
        (HEAD + "Z:x\n\n", "Z: without"),
        (HEAD + "F:etc\nZ:x\n\n", "Z: without"),
        (HEAD + "F:etc\na:0:0:644\n\n", "a: without"),
        (HEAD + "F:etc\nR:x\nM:0:0:700\n\n", "M: without"),
        (HEAD + "F:etc\nM:0:700\n\n", "not 'uid:gid:mode'"),
        (HEAD + "F:etc\nM:0:0:998\n\n", "not an octal mode"),
        (HEAD + "F:etc\nM:root:0:755\n\n", "not 'uid:gid:mode'"),
        (HEAD + "F:etc\nS:5\n\n", "after the files"),
        (HEAD + "F:../etc\n\n", "component"),
        (HEAD + "F:etc\nR:../x\n\n", "component"),
        (HEAD + "F:etc\nR:a/x\n\n", "not a file name"),
        (HEAD + "F:etc\nR:\n\n", "empty R:"),
        (HEAD + "F:etc\nR:a", "truncated"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_installed(text.encode(errors="surrogateescape"), "db")


def test_virtual_packages() -> None:
    """`apk add -t .name` makes entries that no repository could hold."""
    text = f"C:{SUM}\nP:.build-deps\nV:20240101.120000\nS:0\nI:0\nT:virtual meta package\nU:\nL:\n\n".encode()
    assert dump_installed(parse_installed(text)) == text


def test_a_line_break_in_a_file_name_is_refused() -> None:
    (package,) = parse_installed(REAL.encode())
    evil = type(package)(package.entry, (InstalledFolder("etc", files=(InstalledFile("a\nF:x"),)),))
    with pytest.raises(FormatError, match="line break"):
        dump_installed([evil])
