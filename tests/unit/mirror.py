# SPDX-License-Identifier: Apache-2.0
"""A mirror on this machine for tests: serves what it is given, and breaks down when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Bar:
    """A bar that counts."""

    def __init__(self) -> None:
        self.moved = 0

    def advance(self, amount: int) -> None:
        self.moved += amount


class Quiet:
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.made = Bar()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "B") -> Iterator[Bar]:
        yield self.made


class Mirror:
    """`files` by path; `asked` notes each request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks = 0
        """So many answers stop half way."""
        self.refuses = 0
        """So many answers are status 503."""
        self.resumes = True
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                mirror.asked.append((self.path, wanted))
                if mirror.refuses:
                    mirror.refuses -= 1
                    self.send_error(503)
                    return
                data = mirror.files.get(self.path.partition("?")[0])
                if data is None:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.resumes else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                if self.path.endswith("/"):  # a page of a package index
                    self.send_header("Content-Type", "text/html")
                self.end_headers()
                if mirror.breaks:
                    mirror.breaks -= 1
                    self.wfile.write(data[start : start + (len(data) - start) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data[start:])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [path for path, _ in self.asked]


@contextmanager
def serving() -> Iterator[Mirror]:
    """A mirror that runs until the end of the block."""
    made = Mirror()
    threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
