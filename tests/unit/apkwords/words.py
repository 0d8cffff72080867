# SPDX-License-Identifier: Apache-2.0
"""Words for `apk add`, by whether we take them: one table for the Python and the shell of thin client and hosts."""

from __future__ import annotations

from collections.abc import Mapping

TAKEN = (
    *("nano", "font-x", "A", "0", "7zip", "_x", "g++", "gtk+3.0", "a,b", "abseil-cpp-random-internal-distribution-test-util"),
    *("nano=8.2-r0", "nano>=8", "nano>8", "nano<9", "nano<=9", "nano=<9", "nano=>8", "nano==8"),
    *("nano~8", "nano~=8", "nano=~8", "nano>~8", "nano<~8", "nano~>8", "libstdc++~13"),
    *("nano@edge", "nano@edge=8.2-r0", "nano@edge>=8", "nano@edge~8", "nano@edge-testing_1.0+x", "nano@a:b"),
    # apk 3 does not know a tag with an equals sign, but a tag and a version.
    "nano@a=b",
    # Each of these versions is one for apk 2 alone, or for apk 3 alone.
    *("sedutil=2022.12.27~7a0cda7f-r2", "opa-envoy=1.1.0-r1-r0", "openssh=7.4.0p1", "x=a", "x=1..2", "i=9d1f0c"),
    *("sedutil~2022.12.27", "x=1.2b_rc1_p2-r0", "x=20240101.120000"),
    *("so:libcrypto.so.3", "cmd:tcpdump", "cmd:[", "cmd:[[", "cmd:kdevelop!", "pc:zlib>=1.2", "py3.12:foo[bar]"),
    *("ocaml4-intf:Some_module=9d1f0c", "dbus:org.freedesktop.X", "/bin/sh", "/bin/sh=1", "so:players/libdvdnav.so"),
    "a" * 250,
)
"""An apk takes them, and so do we."""

REFUSED = (
    *("a b", "a\nb", "nano=8.2-r0@edge", "sedutil=2022.12.27~7A0-r2", "testpackage=1.4.4-1289492819"),
    *("x=1.0+b", "x=1:2", "x=1/2", "x=", "x>", "x~", "x=1=2", "x=1<2", "x=1 2", "x=1.0~", "x=1.0~-r0"),
)
"""No apk takes them, and neither do we."""

KEPT_FROM_APK: Mapping[str, str] = {
    "": "nothing",
    **dict.fromkeys(("-x", "--allow-untrusted", "--root=/"), "an option"),
    **dict.fromkeys(("x.apk", "x.apk.y", "nano=8.2.apk", "nano@x.apk"), "a file, for apk 2"),
    **dict.fromkeys(("..", ".", "./a", "../x", "a/b", "a/b.c", "/lib/ld-musl-x86_64.so.1", "/etc/x.y"), "a file, for apk 3"),
    **dict.fromkeys(("!nano", "!nano=1", "!!nano"), "what must not be there"),
    **dict.fromkeys((".build-deps", ".build-deps=20240101.120000"), "a package of nobody's repository"),
    "nano><Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=": "a package by its checksum: no version",
    **dict.fromkeys(("+x", "~x", "=1", "nano@", "nano@a@b", "@edge", "nano@a/b"), "no name, or no tag"),
    **dict.fromkeys(
        ("a;b", "a$b", "a$(id)", "a*b", "a?b", "a\\b", 'a"b', "a'b", "a#b", "a%b", "a&b", "a(b)", "a|b", "a`b"), "a shell's"
    ),
    **dict.fromkeys(("a\tb", "aéb", "é", "a\x1b[2J", "a\r"), "not to be seen, or no ASCII"),
    **dict.fromkeys(("a" * 251, "a" * 300), "longer than a file's name can be"),
}
"""Some apk takes them, or would take them for something else than a package; we never hand them on. By what they are."""

WORDS = (*TAKEN, *REFUSED, *KEPT_FROM_APK)
