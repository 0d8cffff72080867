# SPDX-License-Identifier: Apache-2.0
"""A server of packages somewhere in the Internet of the ring: a signed repository, served by HTTP with ranges and faults."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.apk.adb.writer import write_index as write_third_index
from pipeline.apk.adb.writer import write_package as write_third_package
from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from tests.network.machines import INTERNET_ADDRESS, Machine, Tower

SERVER = "packages.test"
ARCH = "x86_64"
KEY = "test@packages.test-1.rsa.pub"


@functools.cache
def _key_pair() -> dict[str, bytes]:
    """Private and public key of all mirrors of a run, by file name: to make one takes half a second."""
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in generate_key(Path(folder), KEY.removesuffix(".rsa.pub"), 2048)}


@dataclass(frozen=True, slots=True)
class Made:
    """A package to be made: what it needs, how many bytes nobody can compress, and a script that runs when it is installed."""

    depends: tuple[str, ...] = ()
    size: int = 2000
    script: str = ""
    version: str = "1.0-r0"
    arch: str = ARCH


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked the server for, and got."""

    path: str
    range: str
    status: int
    sent: int
    peer: str


@dataclass(slots=True)
class Mirror:
    """A repository in a folder, and what its server does."""

    folder: Path
    third: bool = False
    """Whether packages and index are of apk's third format."""
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    """Name of a file -> bytes after which the connection breaks, once."""
    flip: set[str] = field(default_factory=set)
    """Names of files of which one bit is another one."""
    pace: float = 0.0
    """Seconds of waiting for each 64 KiB."""
    names: list[str] = field(default_factory=list)
    """Names of servers that TLS clients asked for."""

    @property
    def public_key(self) -> str:
        """What signs it."""
        return (self.folder / "keys" / KEY).read_text()

    def line(self, scheme: str = "http") -> str:
        """Its line in a list of repositories."""
        return f"{'v3 ' if self.third else ''}{scheme}://{SERVER}/main\n"

    def publish(self, packages: Mapping[str, Made], *, made: int) -> None:
        """Make the repository anew with these packages; its index says that it was made then."""
        (self.folder / "keys").mkdir(parents=True, exist_ok=True)
        for name, content in _key_pair().items():
            (self.folder / "keys" / name).write_bytes(content)
        signer = Signer(self.folder / "keys" / KEY.removesuffix(".pub"), KEY)
        place = self.folder / "main" / ARCH
        for folder in (place, place.parent / "noarch"):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                old.unlink()
        for name, one in packages.items():
            info = PkgInfo(name, one.version, one.arch, depends=one.depends, builddate=made if self.third else 0)
            seed = hashlib.sha256(name.encode()).digest()
            content = b"".join(hashlib.sha256(seed + number.to_bytes(4)).digest() for number in range(one.size // 32))
            scripts = {".post-install": f"#!/bin/sh\n{one.script}\n".encode()} if one.script else {}
            entries = [(TarEntry("opt", kind="dir", mode=0o755), b""), (TarEntry(f"opt/{name}"), content)]
            write = write_third_package if self.third else write_package
            with (place.parent / one.arch / f"{name}-{one.version}.apk").open("wb") as out:
                write(out, info, scripts, entries, epoch=made, signer=signer)
        entries_of = [entry_of(path) for path in sorted(place.parent.glob("*/*.apk"))]
        with (place / self.index).open("wb") as out:
            if self.third:
                write_third_index(out, "test", entries_of, signer)
            else:
                write_index(out, "test", entries_of, signer, made)

    @property
    def index(self) -> str:
        """The name of its index."""
        return "Packages.adb" if self.third else "APKINDEX.tar.gz"

    def size(self, *names: str) -> int:
        """Bytes of files of the repository."""
        return sum(path.stat().st_size for name in names for path in (self.folder / "main").glob(f"*/{name}"))

    def asked(self, name: str) -> list[Request]:
        """The requests for a file."""
        return [one for one in self.requests if one.path.endswith(f"/{name}")]

    @contextmanager
    def served(self, machine: Machine, port: int = 80, tls: tuple[Path, Path] | None = None) -> Iterator[None]:
        """Serve it from a machine; with `tls`, a certificate and its key."""
        with machine.inside():
            listener = socket.create_server((INTERNET_ADDRESS, port))
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            context.sni_callback = lambda _socket, name, _context: self.names.append(name or "")
            listener = context.wrap_socket(listener, server_side=True)
        server = http.server.ThreadingHTTPServer((INTERNET_ADDRESS, port), self.handler(), bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        """What answers a request."""
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = self.folder / handler.path.lstrip("/")
        asked = handler.headers.get("Range", "")
        if not path.resolve().is_relative_to(self.folder) or not path.is_file():
            handler.send_error(404)
            self._note(handler, asked, 404, 0)
            return
        data = bytearray(path.read_bytes())
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        if path.name in self.flip:
            data[len(data) * 3 // 4] ^= 1
        if handler.headers.get("If-None-Match") == tag:
            handler.send_response(304)
            handler.end_headers()
            self._note(handler, asked, 304, 0)
            return
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        start = int(found[1]) if found else 0
        if start >= len(data):
            handler.send_error(416)
            self._note(handler, asked, 416, 0)
            return
        handler.send_response(206 if found else 200)
        if found:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        self._note(handler, asked, 206 if found else 200, self._send(handler, path.name, bytes(data[start:])))

    def _send(self, handler: http.server.BaseHTTPRequestHandler, name: str, data: bytes) -> int:
        end = self.cut.pop(name, len(data))
        sent = 0
        try:
            while sent < min(end, len(data)):
                piece = data[sent : min(sent + (64 << 10), end)]
                handler.wfile.write(piece)
                sent += len(piece)
                time.sleep(self.pace)
        except OSError:
            handler.close_connection = True
        if end < len(data):
            handler.close_connection = True
        return sent

    def _note(self, handler: http.server.BaseHTTPRequestHandler, asked: str, status: int, sent: int) -> None:
        self.requests.append(Request(handler.path, asked, status, sent, handler.client_address[0]))


_APK = (
    "etc/apk", "lib/apk", "usr/lib/apk", "var/cache/apk", "opt",
    "var/lib/tower/packages", "var/lib/tower/bundle", "var/lib/tower/bundle.serial",
)  # fmt: skip
"""What a package manager knows and does, and all that the packages of a mirror and `tower install` leave."""


def restore(machine: Machine) -> None:
    """As if nothing had ever been installed on the machine beside what its root has."""
    machine.restore(*_APK)
    machine.run("sh", "-c", "rm -rf /run/tower-bundle.lock /run/tower-packages*")


def world(machine: Machine) -> list[str]:
    """What the machine's world wants beside what its root has, sorted."""
    before = machine.original("etc/apk/world").read_text().splitlines()
    return sorted(set(machine.read("etc/apk/world").splitlines()) - set(before))


def packages(machine: Machine) -> set[str]:
    """The packages that are installed beside those of its root, and those of its root that are not, as `-name`."""
    found, before = (_names(path) for path in (machine.path(_database(machine)), machine.original(_database(machine))))
    return (found - before) | {f"-{name}" for name in before - found}


def _database(machine: Machine) -> str:
    return next(name for name in ("lib/apk/db/installed", "usr/lib/apk/db/installed") if machine.path(name).is_file())


def _names(database: Path) -> set[str]:
    return {line[2:] for line in database.read_text().splitlines() if line.startswith("P:")}


def use_mirror(tower: Tower, mirror: Mirror, hosts: Sequence[str], scheme: str = "http") -> None:
    """Machines as they were made, but that they have the mirror as repository, and trust its key."""
    tower["router"].write("etc/hosts", f"127.0.0.1 localhost\n{INTERNET_ADDRESS} {SERVER}\n")
    tower["thinclient"].write("etc/apk/repositories", mirror.line(scheme))
    for name in hosts:
        host = tower[name]
        restore(host)
        host.write(f"etc/apk/keys/{KEY}", mirror.public_key)
        host.write("etc/apk/repositories", mirror.line(scheme))
