"""What a web answers: good pages, pages that come late or in turn, and everything that servers do wrong.

A page is a function that gets the handler of one request and answers it.
"""

import gzip
import threading
import time

from tests.web.server import Handler, Page

PATIENCE_SECONDS = 300.0
"""How long a server that never ends goes on, if nobody hangs up; far longer than any test."""


# Answers as they should be


def page(body: bytes, code: int = 200, declared: int | None = None, **headers: str) -> Page:
    """An answer; `declared` overrides Content-Length, and `_` in a header's name stands for `-`."""

    def behave(handler: Handler) -> None:
        _begin(handler, code, **headers, Content_Length=str(len(body) if declared is None else declared))
        handler.send(body)
        handler.close_connection |= declared is not None

    return behave


def status(code: int, **headers: str) -> Page:
    """An answer without a body worth reading."""
    return page(b"nothing here", code, **headers)


def redirect(location: str, code: int = 302) -> Page:
    """An answer that points elsewhere."""
    return status(code, Location=location)


def conditional(body: bytes, etag: str, **headers: str) -> Page:
    """A page with an ETag; who sends that ETag is answered 304."""

    def behave(handler: Handler) -> None:
        known = handler.headers["If-None-Match"] == etag
        page(b"" if known else body, 304 if known else 200, ETag=etag, **headers)(handler)

    return behave


def gzipped(body: bytes, **headers: str) -> Page:
    """A compressed body."""
    return page(gzip.compress(body), Content_Encoding="gzip", **headers)


def chunked(body: bytes, ends: bool = True) -> Page:
    """A body in chunks, whole or broken off."""

    def behave(handler: Handler) -> None:
        _begin(handler, 200, Transfer_Encoding="chunked")
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            handler.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.send(b"0\r\n\r\n" if ends else b"")
        handler.close_connection = not ends

    return behave


def in_turn(*pages: Page) -> Page:
    """Another answer each time; the last one stays."""

    def behave(handler: Handler) -> None:
        pages[min(handler.web.count(handler.path), len(pages)) - 1](handler)

    return behave


# Answers that come late


class Held:
    """A page that waits: `arrived` is set by the first request for it, and `released` lets all of them go on."""

    def __init__(self, page: Page) -> None:
        self.arrived, self.released = threading.Event(), threading.Event()
        self._page = page

    def __call__(self, handler: Handler) -> None:
        self.arrived.set()
        self.released.wait(PATIENCE_SECONDS)
        self._page(handler)


def after(seconds: float, page: Page) -> Page:
    """A page that takes its time."""

    def behave(handler: Handler) -> None:
        time.sleep(seconds)
        page(handler)

    return behave


# Answers that are wrong


def raw(*parts: bytes, pause: float = 0.0, closes: bool = False) -> Page:
    """Exactly these bytes on the connection, with a pause in seconds between two parts; then it may be closed."""

    def behave(handler: Handler) -> None:
        for number, part in enumerate(parts):
            time.sleep(pause if number else 0)
            handler.send(part)
        handler.close_connection = closes

    return behave


nonsense = raw(b"\x00\x01\x02 this is not the web\r\n\r\n", closes=True)
"""Something that is not HTTP."""


def silence(handler: Handler) -> None:
    """No answer at all, until the other side hangs up."""
    handler.connection.settimeout(PATIENCE_SECONDS)
    handler.connection.recv(1)
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    """No answer, and no connection any more."""
    handler.close_connection = True


def trickled_body(seconds: float, code: int = 200) -> Page:
    """A body that comes byte by byte, with so many seconds between two."""

    def behave(handler: Handler) -> None:
        _begin(handler, code, Content_Length="100000")
        _drip(handler, b"0", seconds)

    return behave


def trickled_head(seconds: float) -> Page:
    """Headers that never end, letter by letter, with so many seconds between two."""

    def behave(handler: Handler) -> None:
        handler.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
        _drip(handler, b"a", seconds)

    return behave


def endless(handler: Handler) -> None:
    """A body without a declared length and without an end."""
    _begin(handler, 200, Connection="close")
    _drip(handler, bytes(1 << 16), 0)


def endless_chunks(code: int) -> Page:
    """A body in chunks that never ends."""

    def behave(handler: Handler) -> None:
        _begin(handler, code, Transfer_Encoding="chunked")
        _drip(handler, b"1000\r\n" + bytes(0x1000) + b"\r\n", 0)

    return behave


def _begin(handler: Handler, code: int, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def _drip(handler: Handler, drop: bytes, seconds: float) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        handler.send(drop)
        time.sleep(seconds)
