"""Tiny everything for data: curated pairs, a byte-level tokenizer, and a web that answers as the real
one does, well and badly."""

import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinygptv.data.fetch.engine_process import Settings
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.native.engine import fetch_all
from tinygptv.data.shards.shards import ShardWriter
from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.shapes import language, tables
from tinygptv.shapes.scenes import draw, scene
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name


@pytest.fixture
def pairs(store: Store) -> Manifest:
    """Thirty curated pairs in two shards, as `filter_source` leaves them."""

    def build(folder: Path) -> Outcome:
        with ShardWriter(folder, samples_per_shard=20) as writer:
            for number in range(30):
                picture = scene("train", number)
                row = dict.fromkeys(SIDECAR_COLUMNS) | {
                    "key": f"{number:09d}",
                    "caption": language.name(picture.objects[0]),
                }
                writer.write(row, tables.jpeg(draw(picture, 64)))
        return Outcome(rows_in=30, rows_out=30)

    return store.make(artifact_name("filtered/made_up", {}, []), "test", {}, [], build)


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; id 0 begins, ends and pads, as in Phi-2."""
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=alphabet[0], eos_token=alphabet[0])


@dataclass
class Answer:
    """One response; `declared` overrides Content-Length; it is held back until `wait` is set."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    wait: threading.Event | None = None


@dataclass
class Web:
    """Path → answer, how often each path was asked for and by whom; `arrived` is set when an answer is held back."""

    address: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    agents: set[str | None] = field(default_factory=set)
    arrived: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()

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
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is part of the tests."""

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
    """What `web.answers` is filled with."""
    return Answer


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """A function (width, height, number) → an encoded gradient, another one for every number; options go to Pillow."""

    def draw_gradient(width: int, height: int, number: int = 0, kind: str = "JPEG", **options: object) -> bytes:
        gradient = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        tint = Image.new("RGB", gradient.size, (number * 37 % 256, number * 91 % 256, 128))
        stream = io.BytesIO()
        Image.blend(gradient, tint, 0.5).save(stream, kind, **options)
        return stream.getvalue()

    return draw_gradient


@pytest.fixture
def engine_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Downloads are fetched within this process, which saves a second each; `test_fetching` is about engines as
    processes."""

    @contextmanager
    def engine(fetch: Fetch) -> Iterator[SimpleNamespace]:
        settings = Settings(download=fetch._download, allow_private=fetch._allow_private, parent=os.getppid())
        fetch_all(fetch._folder, settings)
        yield SimpleNamespace(returncode=0, poll=lambda: 0)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Fetch, "__enter__", lambda fetch: fetch)
    monkeypatch.setattr(Fetch, "_engine", engine)
    yield
    signal.signal(signal.SIGTERM, handler)
