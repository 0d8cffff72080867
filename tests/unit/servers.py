# SPDX-License-Identifier: Apache-2.0
"""Servers on this machine that do what servers and networks do wrong: their bytes are written one by one, by the test.

Also a certificate authority, made when it is asked for, and the certificate of such a server.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "packages.test"
"""What the certificate is for, beside 127.0.0.1."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    path: str
    headers: str
    ended: threading.Event
    """Set when the server is to end: whoever waits waits for this."""

    @property
    def start(self) -> int:
        """From which byte on, 0 for all."""
        found = re.search(r"^range: bytes=(\d+)-", self.headers, re.IGNORECASE | re.MULTILINE)
        return int(found[1]) if found else 0


Act = Callable[[Asked], Iterator[bytes]]
"""What a server sends, piece by piece; then it closes the connection."""


@dataclass
class Server:
    """One server. `act` may be replaced at any time."""

    act: Act
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """Answer one request."""
        with suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(4096)
                if not data:
                    return
                head += data
            first, _, headers = head.decode("latin-1").partition("\r\n")
            asked = Asked(first.split()[1], headers.replace("\r\n", "\n"), self.ended)
            self.asked.append(asked)
            for piece in self.act(asked):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            while connection.recv(4096):  # so that nothing that was sent is lost by a reset
                pass


@contextmanager
def served(act: Act, certificate: Path | None = None) -> Iterator[Server]:
    """A server that runs until the end of the block; by TLS if it has a certificate."""
    server = Server(act, "https" if certificate else "http")
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        if context is not None:
            try:
                connection.settimeout(5)
                connection = context.wrap_socket(connection, server_side=True)
                connection.settimeout(None)
            except OSError:
                connection.close()
                return
        server.serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in threads:
                one.join(10)


@dataclass(frozen=True)
class Authority:
    """Files in PEM: who signed, and what a server shows (with its key)."""

    certificate: Path
    server: Path


def make_authority(folder: Path, name: str = NAME) -> Authority:
    """A certificate authority, and a certificate of it for `name` and 127.0.0.1, valid now."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in ("authority", "server")}
    subject = {who: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test {who}")]) for who in keys}
    made: dict[str, x509.Certificate] = {}
    for who, own in keys.items():
        builder = x509.CertificateBuilder().subject_name(subject[who]).issuer_name(subject["authority"])
        builder = builder.public_key(own.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=who == "authority", path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["authority"].public_key()), critical=False
        )
        if who == "authority":
            usage = dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "crl_sign",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, **usage), critical=True)
        else:
            names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made[who] = builder.sign(keys["authority"], hashes.SHA256())
    pem = {who: made[who].public_bytes(serialization.Encoding.PEM) for who in keys}
    key = keys["server"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "authority.pem").write_bytes(pem["authority"])
    (folder / "server.pem").write_bytes(key + pem["server"])
    return Authority(folder / "authority.pem", folder / "server.pem")


# --- what servers do ------------------------------------------------------------------------------------------

PAGE = b"<!doctype html><title>Welcome to our hotel</title><p>Room number?"


def head(status: str = "200 OK", **headers: object) -> bytes:
    """The head of an answer."""
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunk(data: bytes) -> bytes:
    """A chunk of a body without a length."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def well(content: bytes) -> Act:
    """As it should be, parts of it included."""

    def act(asked: Asked) -> Iterator[bytes]:
        start = asked.start
        if start:
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            yield head("206 Partial Content", Content_Length=len(content) - start, Content_Range=where)
        else:
            yield head(Content_Length=len(content))
        yield content[start:]

    return act


def says(*pieces: bytes) -> Act:
    """These bytes, whatever was asked for."""

    def act(asked: Asked) -> Iterator[bytes]:
        yield from pieces

    return act


def dripping(first: bytes, drop: bytes = b"a", pause: float = 0.05) -> Act:
    """`first`, then a byte now and then, until the server ends."""

    def act(asked: Asked) -> Iterator[bytes]:
        yield first
        while not asked.ended.wait(pause):
            yield drop

    return act


def wrong(content: bytes) -> dict[str, tuple[Act, str]]:
    """What is done wrong with a whole file: name -> how, and what must be said of it (a pattern)."""
    size, half = len(content), content[: len(content) // 2]
    page = head(Content_Type="text/html; charset=utf-8", Content_Length=len(PAGE)) + PAGE
    return {
        "a page": (says(page), r"web page \(text/html\)"),
        "a page without a length": (says(head(Content_Type="text/html"), PAGE), r"broke off|web page"),
        "a page in chunks": (
            says(head(Content_Type="text/html", Transfer_Encoding="chunked"), chunk(PAGE), b"0\r\n\r\n"),
            "web page",
        ),
        "nothing": (says(head(Content_Length=0)), "0 bytes|empty"),
        "nothing, without a length": (says(head()), "broke off|empty"),
        "nothing, in chunks": (says(head(Transfer_Encoding="chunked"), b"0\r\n\r\n"), "ends after 0|empty"),
        "less than it said": (says(head(Content_Length=size), half), f"broke off after {len(half)} bytes"),
        "half of it": (says(head(Content_Length=len(half)), half), f"{len(half)} bytes, the lock says {size}|sha256"),
        "more than it said and than there is": (says(head(Content_Length=size + 9), content + b"ninebytes"), f"{size + 9} bytes"),
        "more, in chunks": (
            says(head(Transfer_Encoding="chunked"), chunk(content), chunk(b"ninebytes"), b"0\r\n\r\n"),
            f"more than the {size} bytes",
        ),
        "less, in chunks": (says(head(Transfer_Encoding="chunked"), chunk(half), b"0\r\n\r\n"), f"ends after {len(half)}"),
        "broken off in chunks": (says(head(Transfer_Encoding="chunked"), chunk(half), b"fff\r\nabc"), "broke off after"),
        "broken off in a chunk's size": (says(head(Transfer_Encoding="chunked"), chunk(half), b"zz\r\n"), "broke off after"),
        "other bytes": (says(head(Content_Length=size), content[:-1] + bytes([content[-1] ^ 1])), "sha256"),
        "status 500": (says(head("500 Oops", Content_Length=0)), "status 500"),
        "status 429": (says(head("429 Slow Down", Content_Length=0)), "status 429"),
        "status 401": (says(head("401 Unauthorized", Content_Length=0)), "status 401"),
        "status 204": (says(head("204 No Content")), "status 204"),
        "status 304": (says(head("304 Not Modified")), "status 304"),
        "a circle": (says(head("302 Found", Location="?again", Content_Length=0)), "redirects in circles"),
        "a redirect to nowhere": (says(head("302 Found", Content_Length=0)), "redirects to ''"),
        "a redirect to a file": (says(head("302 Found", Location="file:///etc/passwd")), "redirects to 'file:///etc/passwd'"),
        "a redirect to nonsense": (says(head("301 Moved", Location="http://[::1/")), r"redirects to 'http://\[::1/'"),
        "no HTTP": (says(b"SSH-2.0-OpenSSH_9.9\r\n"), "cannot be reached, or broke off"),
        "a length that is none": (says(head(Content_Length="10, 20"), content), "broke off|another file"),
        "no answer": (says(), "cannot be reached, or broke off"),
        "dripping headers": (dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"), "too slow: less than 1000 bytes in 0 s"),
        "dripping bytes": (dripping(head(Content_Length=size), content[:1]), "too slow"),
        "dripping chunks": (dripping(head(Transfer_Encoding="chunked"), chunk(content[:1])), "too slow"),
        "a dripping chunk's size": (dripping(head(Transfer_Encoding="chunked"), b"0"), "too slow"),
        "silence": (silent(b""), "did not answer in time|too slow"),
        "silence after the headers": (silent(head(Content_Length=size)), "too slow|nothing more came"),
        "silence half way": (silent(head(Content_Length=size) + half), "too slow|nothing more came"),
    }


def silent(first: bytes) -> Act:
    """`first`, and nothing more until the server ends."""

    def act(asked: Asked) -> Iterator[bytes]:
        yield first
        asked.ended.wait(30)

    return act


def harmless(content: bytes) -> dict[str, Act]:
    """Odd ways to send a whole file that is right."""
    return {
        "x-gzip": says(head(Content_Encoding="x-gzip", Content_Length=len(content)), content),
        "gzip": says(head(Content_Encoding="gzip", Content_Length=len(content)), content),
        "gzip in chunks": says(head(Content_Encoding="gzip", Transfer_Encoding="chunked"), chunk(content), b"0\r\n\r\n"),
        "called a page": says(head(Content_Type="text/html", Content_Length=len(content)), content),
        "without a length": says(head(), content),
        "in chunks": says(
            head(Transfer_Encoding="chunked"), *(chunk(content[i : i + 999]) for i in range(0, len(content), 999)), b"0\r\n\r\n"
        ),
        "more than it said": says(head(Content_Length=len(content)), content, b"ninebytes"),
        "by HTTP 1.0": says(b"HTTP/1.0 200 OK\r\n\r\n", content),
    }


def ranges(content: bytes) -> dict[str, Act]:
    """What servers make of a request for the rest of a file; without one they do well."""
    size = len(content)

    def answering(how: Callable[[int], Iterator[bytes]]) -> Act:
        return lambda asked: how(asked.start) if asked.start else well(content)(asked)

    def part(status: str, body: Callable[[int], bytes], where: Callable[[int], str] | None) -> Act:
        def how(start: int) -> Iterator[bytes]:
            data = body(start)
            yield head(status, Content_Length=len(data), **({"Content_Range": where(start)} if where else {}))
            yield data

        return answering(how)

    partial = "206 Partial Content"
    return {
        "another part": part(partial, lambda start: content[start + 5 :], lambda start: f"bytes {start + 5}-{size - 1}/{size}"),
        "from the start": part(partial, lambda _: content, lambda _: f"bytes 0-{size - 1}/{size}"),
        "of another file": part(
            partial, lambda start: content[start:] + b"more", lambda start: f"bytes {start}-{size + 3}/{size + 4}"
        ),
        "that lies": part(partial, lambda _: content, lambda start: f"bytes {start}-{size - 1}/{size}"),
        "without a word": part(partial, lambda start: content[start:], None),
        "of unknown length": part(partial, lambda start: content[start:], lambda start: f"bytes {start}-{size - 1}/*"),
        "nonsense": part(partial, lambda start: content[start:], lambda _: "lines 3 to 5"),
        "the whole file": part("200 OK", lambda _: content, None),
        "other bytes": part(partial, lambda start: bytes(size - start), lambda start: f"bytes {start}-{size - 1}/{size}"),
        "no such part": part("416 Range Not Satisfiable", lambda _: b"", lambda _: f"bytes */{size}"),
        "less of it": part(partial, lambda start: content[start:-7], lambda start: f"bytes {start}-{size - 8}/{size}"),
    }
