"""A web server on loopback that does what servers do wrong, on purpose, and remembers what it was asked."""

import gzip
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PATIENCE_SECONDS = 300.0
"""How long a server that never ends goes on, if nobody hangs up; far longer than any test."""


@dataclass
class Site:
    """What a server does for each path, and what it has seen; paths it does not know are 404.

    `asked` holds the times of the requests for each path, `connections` counts those that were opened.
    """

    address: str = ""
    pages: dict[str, Callable[["Handler"], None]] = field(default_factory=dict)
    asked: dict[str, list[float]] = field(default_factory=dict)
    agents: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    sent_bytes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return len(self.asked.get(path, ()))


class Handler(BaseHTTPRequestHandler):
    """Serves a site's pages over connections that are kept."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site: Site

    def setup(self) -> None:
        super().setup()
        with self.site.lock:
            self.site.connections += 1

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        with self.site.lock:
            self.site.asked.setdefault(self.path, []).append(time.monotonic())
            self.site.agents[self.headers["User-Agent"]] += 1
        with suppress(OSError):
            self.site.pages.get(self.path, status(404))(self)

    def send(self, content: bytes) -> None:
        """Send some bytes now, and count them."""
        self.wfile.write(content)
        self.site.sent_bytes[self.path] += len(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Site]:
    """A site of its own, while the context lasts; with a certificate and its key it speaks TLS."""
    site = Site()
    handler = type("SiteHandler", (Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            site.address = f"https://localhost:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield site
        server.shutdown()


def page(body: bytes, code: int = 200, declared: int | None = None, **headers: str) -> Callable[[Handler], None]:
    """An answer; `declared` overrides Content-Length, and `_` in a header's name stands for `-`."""

    def behave(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if declared is None else declared))
        handler.end_headers()
        handler.send(body)
        handler.close_connection |= declared is not None

    return behave


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    """An answer without a body worth reading."""
    return page(b"nothing here", code, **headers)


def redirect(location: str, code: int = 302) -> Callable[[Handler], None]:
    """An answer that points elsewhere."""
    return status(code, Location=location)


def in_turn(*pages: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """Another answer each time; the last one stays."""

    def behave(handler: Handler) -> None:
        pages[min(handler.site.times(handler.path), len(pages)) - 1](handler)

    return behave


def conditional(body: bytes, etag: str, **headers: str) -> Callable[[Handler], None]:
    """A page with an ETag, which answers 304 to who knows it."""

    def behave(handler: Handler) -> None:
        known = handler.headers["If-None-Match"] == etag
        page(b"" if known else body, 304 if known else 200, ETag=etag, **headers)(handler)

    return behave


def silence(handler: Handler) -> None:
    """No answer at all."""
    _wait(handler)


def hang_up(handler: Handler) -> None:
    """No answer, and no connection any more."""
    handler.close_connection = True


def trickled_body(seconds: float) -> Callable[[Handler], None]:
    """A body that comes byte by byte."""

    def behave(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        _drip(handler, b"0", seconds)

    return behave


def trickled_head(seconds: float) -> Callable[[Handler], None]:
    """Headers that never end, letter by letter."""

    def behave(handler: Handler) -> None:
        handler.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
        _drip(handler, b"a", seconds)

    return behave


def endless(handler: Handler) -> None:
    """A body without a declared length and without an end."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        handler.send(bytes(1 << 16))


def gzipped(body: bytes, **headers: str) -> Callable[[Handler], None]:
    """A packed body."""
    return page(gzip.compress(body), Content_Encoding="gzip", **headers)


def chunked(body: bytes, ends: bool = True) -> Callable[[Handler], None]:
    """A body in chunks, whole or broken off."""

    def behave(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            handler.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.send(b"0\r\n\r\n" if ends else b"")
        handler.close_connection = not ends

    return behave


def nonsense(handler: Handler) -> None:
    """Something that is not HTTP."""
    handler.send(b"\x00\x01\x02 this is not the web\r\n\r\n")
    handler.close_connection = True


def _drip(handler: Handler, drop: bytes, seconds: float) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        handler.send(drop)
        time.sleep(seconds)


def _wait(handler: Handler) -> None:
    """Until the other side hangs up."""
    handler.connection.settimeout(PATIENCE_SECONDS)
    handler.connection.recv(1)
    handler.close_connection = True
