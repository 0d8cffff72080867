# SPDX-License-Identifier: Apache-2.0
"""What a real apk says in the situations that the grammar must read, and how the transcripts beside this file are made.

    python -m tests.unit.apkwords.scenarios 'apk 3.0.8, the program of Alpine 3.23' COMMAND... >said-3.0.8.txt

COMMAND is an apk (with what runs it, where it is not of this machine's libc); it needs root, for the scripts of packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from tests.conftest import CHECKOUT
from tests.unit.apkwords.words import WORDS

EPOCH = 1_700_000_000
LIBRARY = CHECKOUT / "overlays" / "common" / "usr" / "share" / "tower" / "apkwords.sh"
_ARCH = "x86_64"
_SCRIPT = b"#!/bin/sh\necho hello from a script\n(1/1) 2>/dev/null\necho '(1/1) Installing nothing (1.0-r0)'\n"


@dataclass(frozen=True)
class Stock:
    """A repository, as names of packages with versions, and what else they say of themselves."""

    tag: str
    packages: Sequence[PkgInfo]
    content: bytes = b""
    """Distinguishes packages of the same name and version."""


def info(
    name: str, version: str = "1.0-r0", *depends: str, provides: Sequence[str] = (), triggers: Sequence[str] = ()
) -> PkgInfo:
    return PkgInfo(name, version, _ARCH, depends=depends, provides=tuple(provides), triggers=tuple(triggers))


def parts(count: int) -> list[PkgInfo]:
    """Packages that need one another, so that they are installed in one order."""
    return [info(f"part{number:02d}", "1.0-r0", *([f"part{number - 1:02d}"] * (number > 1))) for number in range(1, count + 1)]


@cache
def key_pair() -> tuple[bytes, bytes]:
    """A private and a public key, made once: that takes longer than all else."""
    with tempfile.TemporaryDirectory() as folder:
        private, public = generate_key(Path(folder), "test", 2048)
        return private.read_bytes(), public.read_bytes()


@dataclass
class Place:
    """An apk, a root for it, and repositories that it may be led to."""

    apk: Sequence[str]
    folder: Path
    root: Path = field(init=False)
    _signer: Signer = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        keys = self.root / "etc" / "apk" / "keys"
        keys.mkdir(parents=True)
        (self.root / "etc" / "apk" / "arch").write_text(f"{_ARCH}\n")
        for place, content in zip((self.folder / "test.rsa", keys / "test.rsa.pub"), key_pair(), strict=True):
            place.write_bytes(content)
        (self.folder / "work").mkdir()
        self._signer = Signer(self.folder / "test.rsa", "test.rsa.pub")
        for program in ("/bin", "/etc"):
            (self.root / program[1:]).mkdir(exist_ok=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", self.root / "bin" / "sh")
        self.use([])
        self.run("add", "--initdb")

    def use(self, stocks: Sequence[Stock], *addresses: str) -> None:
        """Let these be the repositories."""
        lines = []
        for number, stock in enumerate(stocks):
            shutil.rmtree(self.folder / "mirror" / str(number), ignore_errors=True)
            self._make(self.folder / "mirror" / str(number) / _ARCH, stock)
            where = addresses[number] if number < len(addresses) else str(self.folder / "mirror" / str(number))
            lines.append(f"{stock.tag} {where}".strip())
        lines += addresses[len(stocks) :]
        (self.root / "etc" / "apk" / "repositories").write_text("".join(f"{line}\n" for line in lines))

    def _make(self, folder: Path, stock: Stock) -> None:
        folder.mkdir(parents=True)
        for one in stock.packages:
            scripts = {".post-install": _SCRIPT} if one.name.startswith("script") else {}
            if one.triggers:
                scripts[".trigger"] = _SCRIPT
            files = [(TarEntry(f"etc/{one.name}", mtime=EPOCH), b"x" * 9000 + stock.content + one.version.encode())]
            with (folder / f"{one.name}-{one.version}.apk").open("wb") as out:
                write_package(out, one, scripts, files, epoch=EPOCH, signer=self._signer)
        entries = [entry_of(path) for path in sorted(folder.glob("*.apk"))]
        with (folder / "APKINDEX.tar.gz").open("wb") as out:
            write_index(out, f"stock {stock.tag}".strip(), entries, self._signer, EPOCH)

    def run(self, *words: str) -> list[str]:
        """The lines that apk says, as `packages` hears them: with standard error among them."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        argv = [*self.apk, "--root", str(self.root), *words]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder / "work",
            env=environment,
            check=False,
        )
        text = done.stdout.decode(errors="replace").replace(str(self.folder), "")
        return re.sub(r"127\.0\.0\.1:[0-9]+", "127.0.0.1:80", text).splitlines()

    def plan(self, *words: str) -> list[str]:
        """What `packages` asks first."""
        return self.run("add", "--simulate", "--no-progress", *words)

    def do(self, *words: str) -> list[str]:
        """What `packages` asks then."""
        return self.run("add", "--no-progress", "--progress-fd", "1", "--wait", "60", *words)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of a server of the repositories."""

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the library)
                """Nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(self.folder / "mirror"))) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()


def _many(place: Place) -> list[str]:
    place.use([Stock("", parts(12))])
    return place.plan("part12")


def _hundred(place: Place) -> list[str]:
    place.use([Stock("", parts(102))])
    return place.plan("part102")


def _tagged(place: Place) -> list[str]:
    place.use([Stock("", [info("library")]), Stock("@edge", [info("foo", "1.0-r0", "library")])])
    return place.plan("foo@edge")


def _tagged_and_limited(place: Place) -> list[str]:
    place.use([Stock("", [info("foo")]), Stock("@edge", [info("foo", "2.0-r0")])])
    return place.plan("foo@edge>=2")


def _unknown_tag(place: Place) -> list[str]:
    place.use([Stock("", [info("foo")])])
    return place.plan("foo@edge")


def _pinned(place: Place) -> list[str]:
    place.use([Stock("@edge", [info("foo")])])
    place.do("foo@edge")
    place.use([Stock("@testing", [info("foo")])])
    return place.plan("foo@testing")


def _hash(place: Place) -> list[str]:
    place.use([Stock("", [info("sedutil", "2022.12.27~7a0cda7f-r2"), info("odd", "1.2b_rc1_p2-r0")])])
    return place.plan("sedutil", "odd")


def _changed(place: Place, before: str, after: Sequence[Stock], *words: str) -> list[str]:
    place.use([Stock("", [info("foo", before), info("other")])])
    place.do("foo", "other")
    place.use(after)
    return place.plan(*words)


def _upgraded(place: Place) -> list[str]:
    return _changed(
        place, "1.0-r0", [Stock("", [info("foo", "1.2_git20240101~0f1e2d-r0"), info("other")])], "foo=1.2_git20240101~0f1e2d-r0"
    )


def _upgraded_with_tag(place: Place) -> list[str]:
    return _changed(place, "1.0-r0", [Stock("", [info("other")]), Stock("@edge", [info("foo", "2.0-r0")])], "foo@edge")


def _downgraded(place: Place) -> list[str]:
    return _changed(place, "2.0-r0", [Stock("", [info("foo", "1.0-r0"), info("other")])], "foo=1.0-r0")


def _replaced(place: Place) -> list[str]:
    _changed(place, "1.0-r0", [Stock("", [info("foo"), info("other")], content=b"another")], "foo")
    return place.run("upgrade", "--available", "--simulate", "--no-progress")


def _reinstalled(place: Place) -> list[str]:
    _changed(place, "1.0-r0", [Stock("", [info("foo"), info("other")])], "foo")
    return place.run("fix", "--reinstall", "--simulate", "--no-progress", "foo")


def _unavailable(place: Place) -> list[str]:
    _changed(place, "1.0-r0", [], "foo")
    return place.run("fix", "--reinstall", "--simulate", "--no-progress", "foo")


def _purged(place: Place) -> list[str]:
    place.use([Stock("", [info("foo"), info("rival", "1.0-r0", "!foo")])])
    place.do("foo")
    (place.root / "etc" / "apk" / "world").write_text("")
    return place.plan("rival")


def _virtual(place: Place) -> list[str]:
    place.use([Stock("", [info("foo"), info("other")])])
    place.run("add", "--virtual", ".tools=1.0", "--no-progress", "foo")
    (place.root / "etc" / "apk" / "world").write_text("foo\n")
    return place.plan("other")


def _nothing(place: Place) -> list[str]:
    place.use([Stock("", [info("foo")])])
    place.do("foo")
    return place.plan("foo")


def _scripts(place: Place) -> list[str]:
    place.use([Stock("", [info("script-one"), info("script-two", triggers=["/etc"]), info("changed")])])
    (place.root / "etc" / "changed").write_text("mine\n")
    return place.do("script-one", "script-two", "changed")


def _refused(place: Place) -> list[str]:
    place.use([Stock("", [info("foo", "1.0-r0", "nowhere")])])
    return place.plan("foo", "missing")


def _no_package(place: Place) -> list[str]:
    place.use([Stock("", [info("foo")])])
    shutil.rmtree(place.folder / "mirror" / "0" / _ARCH, ignore_errors=True)
    return place.plan("foo")


def _read(place: Place) -> list[str]:
    with place.served() as address:
        place.use([Stock("", [info("foo")]), Stock("@edge", [info("bar")])], f"{address}/0", f"{address}/1")
        return place.run("update", "--no-progress")


def _read_in_part(place: Place) -> list[str]:
    with place.served() as address:
        place.use([Stock("", [info("foo")])], f"{address}/0", f"{address}/missing")
        return place.run("update", "--no-progress")


def _cached(place: Place) -> list[str]:
    (place.root / "etc" / "apk" / "cache").mkdir()
    with place.served() as address:
        place.use([Stock("", [info("foo")])], f"{address}/0")
        return [*place.plan("foo"), *place.do("foo")]


def _quiet(place: Place) -> list[str]:
    place.use([Stock("", [info("foo")])])
    return place.run("add", "--simulate", "--no-progress", "--quiet", "foo")


def _verbose(place: Place) -> list[str]:
    place.use([Stock("", [info("foo", "1.0-r0", "library"), info("library")])])
    return place.run("add", "--simulate", "--no-progress", "--verbose", "--verbose", "--interactive", "foo")


def _undone(place: Place) -> list[str]:
    """What `packages` does to undo, where the list of what is wanted has a tag: without and with a repository of that tag."""
    stock = [info("library"), info("new", "1.0-r0", "more"), info("more")]
    place.use([Stock("", stock), Stock("@edge", [info("foo", "1.0-r0", "library")])])
    place.do("foo@edge")
    files = [place.root / name for name in ("etc/apk/world", "lib/apk/db/installed")]
    before = [file.read_text() for file in files]
    place.do("new")
    files[0].write_text(before[0])
    undo = ("add", "--no-network", "--no-progress", "--repositories-file")
    said = place.run(*undo, "/dev/null")
    nowhere = place.folder / "nowhere"
    code = f'. {LIBRARY}; lay_nowhere "$@" >"$1.list"'
    subprocess.run(["sh", "-euc", code, "sh", nowhere, _ARCH, files[0]], check=True, timeout=20)
    said += place.run(*undo, f"{nowhere}.list", "--allow-untrusted")
    return [*said, "as before" if [file.read_text() for file in files] == before else "not as before"]


def _file_of_that_name(place: Place) -> list[str]:
    place.use([Stock("", [info("foo", "1.0-r0")])])
    (place.folder / "work" / "foo=1.0-r0").write_text("not a package\n")
    return place.plan("foo=1.0-r0")


def _words(place: Place) -> list[str]:
    """Whether each word of the table is one for `apk add`: `taken`, `refused`, or `file`."""
    return [f"{_verdict(place.plan('--', word))} {json.dumps(word)}" for word in WORDS]


def _verdict(said: Sequence[str]) -> str:
    text = "\n".join(said)
    if "is not a valid" in text:
        return "refused"
    return "taken" if "unable to select" in text or "repository tag" in text or text.startswith("OK: 0 ") else "file"


SCENARIOS: dict[str, Callable[[Place], list[str]]] = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.startswith("_")
    and name not in ("_changed", "_verdict")
    and callable(function)
    and getattr(function, "__module__", "") == __name__
}


def capture(apk: Sequence[str], name: str) -> list[str]:
    """The lines of one situation."""
    with tempfile.TemporaryDirectory() as folder:
        return SCENARIOS[name](Place(apk, Path(folder)))


def read(text: str) -> dict[str, list[str]]:
    """A file of transcripts: by the name of each situation, what was said."""
    found: dict[str, list[str]] = {}
    for part in text.split("\n== ")[1:]:
        name, *lines = part.rstrip("\n").split("\n")
        found[name] = lines
    return found


if __name__ == "__main__":
    os.umask(0o022)
    print(f"What {sys.argv[1]} said; made by tests/unit/apkwords/scenarios.py, which tells in what situations.")
    for _name in SCENARIOS:
        print(f"\n== {_name}", *capture(sys.argv[2:], _name), sep="\n")
