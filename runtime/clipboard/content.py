# SPDX-License-Identifier: Apache-2.0
"""What the clipboard holds: text, HTML and pictures, and what is removed from them when they come from a host.

A host is not trusted, so that only what these functions return leaves the display of its application.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from enum import StrEnum
from html import escape
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

from tower.display.pngfile import CHANNELS, DEPTHS, SIGNATURE, DamagedPngError, part, parts

MOST: Final = 8 << 20
"""The most bytes of one kind that pass."""
MOST_SIDE: Final = 16384
MOST_PIXELS: Final = 7680 * 4320


class Kind(StrEnum):
    """A kind of content, by its MIME type."""

    TEXT = "text/plain;charset=utf-8"
    HTML = "text/html"
    PNG = "image/png"


SHORT: Final = {Kind.TEXT: "text", Kind.HTML: "HTML", Kind.PNG: "picture"}
"""The names of the kinds in messages."""
Content = Mapping[Kind, bytes]
_TAGS: Final = frozenset({
    "a", "b", "blockquote", "br", "caption", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "i", "ins", "kbd", "li", "ol", "p", "pre", "s", "samp", "small", "span", "strong", "sub", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var",
})  # fmt: skip
_HIDDEN: Final = frozenset({"script", "style", "head", "title", "template", "svg", "math", "object", "iframe", "noscript"})
"""Elements whose content is no text of the page."""
_ALONE: Final = frozenset({"br", "hr"})
_DEEPEST: Final = 200
_KEPT: Final = (b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"sRGB", b"pHYs", b"IDAT", b"IEND")


class UnfitError(Exception):
    """A content that does not pass; the text says why."""


def clean(kind: Kind, data: bytes) -> bytes:
    """Return what may pass of a content that a host supplied. Raises UnfitError if nothing may.

    Text loses control characters other than tab and line feed: pasted into a terminal, they would be commands to it. HTML keeps
    text, structure and links, without scripts, styles and pictures of other servers. A picture keeps its pixels.
    """
    if len(data) > MOST:
        raise UnfitError(f"has {len(data)} bytes; at most {MOST} pass")
    if kind is Kind.PNG:
        return _clean_png(data)
    text = _clean_text(_decoded(data)) if kind is Kind.TEXT else _clean_html(_decoded(data))
    found = text.encode()
    if not found:
        raise UnfitError("is empty")
    if len(found) > MOST:
        raise UnfitError(f"would have {len(found)} bytes; at most {MOST} pass")
    return found


def _decoded(data: bytes) -> str:
    """Decode UTF-8, or what some browsers send, UTF-16 with its mark; what is none becomes U+FFFD."""
    form = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return data.decode(form, errors="replace")


def _clean_text(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Unicode's two blocks of control characters, and those that turn the direction of the text around them.
    return "".join(char for char in text if char in "\t\n" or not _controls(ord(char)))


def _controls(code: int) -> bool:
    return code < 0x20 or 0x7F <= code <= 0x9F or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


class _Page(HTMLParser):
    """Writes a page again with the elements and the links that may pass."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            if len(self.hidden) < _DEEPEST:
                self.hidden.append(tag)
        elif not self.hidden and tag in _TAGS and (tag in _ALONE or len(self.open) < _DEEPEST):
            link = next((value for name, value in attrs if name == "href" and value and _may_lead(value)), None)
            self.parts.append(f'<{tag} href="{escape(link)}">' if tag == "a" and link else f"<{tag}>")
            if tag not in _ALONE:
                self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _ALONE:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hidden:
            while self.hidden.pop() != tag:
                pass
        elif not self.hidden and tag in self.open:
            while (last := self.open.pop()) != tag:
                self.parts.append(f"</{last}>")
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(escape(_clean_text(data), quote=False))

    def written(self) -> str:
        """Return the page, with all elements closed."""
        return "".join([*self.parts, *(f"</{tag}>" for tag in reversed(self.open))])


def _may_lead(link: str) -> bool:
    try:
        return urlsplit(link.strip()).scheme in ("http", "https", "mailto") and not any(_controls(ord(char)) for char in link)
    except ValueError:
        return False


def _clean_html(text: str) -> str:
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except (AssertionError, ValueError):
        raise UnfitError("is no HTML") from None
    return page.written()


def _clean_png(data: bytes) -> bytes:
    """Return a picture with the chunks that its pixels need. Raises UnfitError if they are not what its header says."""
    try:
        chunks = list(parts(data))
    except DamagedPngError as error:
        raise UnfitError(f"is a picture that {error}") from None
    names = [name for name, _ in chunks]
    if names[0] != b"IHDR" or b"IDAT" not in names or len(chunks[0][1]) != 13:
        raise UnfitError("is an incomplete PNG")
    width, height, depth, colour, way, filters, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE and width * height <= MOST_PIXELS):
        raise UnfitError(f"is a picture of {width} by {height} pixels")
    if depth not in DEPTHS.get(colour, ()) or way or filters or interlaced > 1 or names.count(b"IHDR") > 1:
        raise UnfitError("is a PNG of an unknown form")
    pixels = b"".join(body for name, body in chunks if name == b"IDAT")
    _check_pixels(pixels, width, height, depth * CHANNELS[colour], interlaced)
    return SIGNATURE + b"".join(part(name, body) for name, body in chunks if name in _KEPT)


def _check_pixels(packed: bytes, width: int, height: int, bits: int, interlaced: int) -> None:
    """Check that there are as many bytes of pixels as a picture of this size has, without keeping them."""
    # The first column, row, and the steps from one to the next, of each of the seven pictures in an interlaced one.
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    wanted = 0
    for x, y, across, down in passes if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + (columns * bits + 7) // 8)
    machine, found = zlib.decompressobj(), 0
    try:
        while packed and not machine.eof and found <= wanted:
            found += len(machine.decompress(packed, 1 << 20))
            packed = machine.unconsumed_tail
    except zlib.error:
        raise UnfitError("is a damaged PNG") from None
    if found != wanted or not machine.eof:
        raise UnfitError("is a PNG with another number of pixels than it says")
