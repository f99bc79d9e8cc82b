"""A web on loopback for tests: it answers each path as a test says, well or badly, and notes what it was asked.

    web.pages["/cat.jpg"] = page(content)           what it answers: see `pages.py`; other paths are `web.otherwise`
    web.count("/cat.jpg"), web.times("/cat.jpg")    how often, and when
    web.asked_for                                   all paths but robots.txt
    web.clear()                                     forget the requests, keep the pages

The fixture `web` gives a test one of its own; `serving()` is for tests that need several, or one per module.
"""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Asked:
    """One request: its path, who asked, when (`time.monotonic`), and the status of the answer once there is one."""

    path: str
    agent: str | None
    moment: float
    status: int | None = None


class Handler(BaseHTTPRequestHandler):
    """What a page answers with: one request on a connection, which is kept unless `close_connection` is set."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: "Web"
    asked: Asked

    def setup(self) -> None:
        super().setup()
        with self.web.lock:
            self.web.connections += 1

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self.asked = Asked(self.path, self.headers["User-Agent"], time.monotonic())
        with self.web.lock:
            self.web.requests.append(self.asked)
        with suppress(OSError):
            self.web.pages.get(self.path, self.web.otherwise)(self)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.asked.status = code
        super().send_response(code, message)

    def send(self, content: bytes) -> None:
        """Send these bytes now, and count them."""
        self.wfile.write(content)
        self.web.sent_bytes[self.path] += len(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Page = Callable[[Handler], None]


def not_found(handler: Handler) -> None:
    """404, with a body that is no picture."""
    handler.send_response(404)
    handler.send_header("Content-Length", "12")
    handler.end_headers()
    handler.send(b"nothing here")


@dataclass
class Web:
    """Path → page, and every request so far."""

    pages: dict[str, Page] = field(default_factory=dict)
    otherwise: Page = not_found
    address: str = ""
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0
    sent_bytes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return len(self.times(path))

    def times(self, path: str) -> list[float]:
        """When a path was asked for, in seconds on the monotonic clock."""
        with self.lock:
            return [asked.moment for asked in self.requests if asked.path == path]

    @property
    def asked_for(self) -> Counter[str]:
        """Path → how often it was asked for; robots.txt is left out."""
        with self.lock:
            return Counter(asked.path for asked in self.requests if asked.path != "/robots.txt")

    @property
    def agents(self) -> set[str | None]:
        """Who asked, as they call themselves."""
        with self.lock:
            return {asked.agent for asked in self.requests}

    def clear(self) -> None:
        """Forget what was asked and sent so far; the pages stay."""
        with self.lock:
            self.requests.clear()
            self.sent_bytes.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Web]:
    """A web of its own while the context lasts; with a file of a certificate and its key it speaks TLS."""
    web = Web()
    with _Server(("127.0.0.1", 0), type("WebHandler", (Handler,), {"web": web})) as server:
        web.address = f"http://127.0.0.1:{server.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            web.address = f"https://localhost:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield web
        server.shutdown()
