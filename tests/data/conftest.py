"""A small web that answers as the real one does, well and badly."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image


@dataclass
class Answer:
    """One response; `declared` overrides Content-Length, `wait` is set by a test before the answer is sent."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    wait: threading.Event | None = None


@dataclass
class Web:
    """Path → answer, and how often each path was asked for."""

    address: str
    answers: dict[str, Answer]
    asked: Counter[str]
    agents: set[str]
    arrived: threading.Event


@contextmanager
def serving() -> Iterator[Web]:
    web = Web("", {}, Counter(), set(), threading.Event())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked[self.path] += 1
            web.agents.add(self.headers["User-Agent"])
            answer = web.answers.get(self.path, Answer(status=404))
            if answer.wait is not None:
                web.arrived.set()
                answer.wait.wait(60)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) if answer.declared is None else answer.declared))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        web.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield web
        server.shutdown()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """The web of one test module."""
    with serving() as served:
        yield served


@pytest.fixture(scope="session")
def answer() -> type[Answer]:
    return Answer


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """A function (width, height, colour) → an encoded gradient; `kind` and `save` options go to Pillow."""

    def draw(width: int, height: int, colour: int = 0, kind: str = "JPEG", **save: object) -> bytes:
        image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        image.putpixel((0, 0), (colour % 256, colour // 256 % 256, 255))
        image = Image.blend(image, Image.new("RGB", image.size, (colour * 37 % 256, colour * 91 % 256, 128)), 0.5)
        stream = io.BytesIO()
        image.save(stream, kind, **save)
        return stream.getvalue()

    return draw
