"""Small inputs for the tests of data: curated pairs, a byte-level tokenizer, pictures, and an engine without a process
of its own."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.data.corpus import Corpus
from tests.web.server import Web
from tinygptv import catalog
from tinygptv.data.fetch.engine_process import Settings
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.native.engine import fetch_all
from tinygptv.data.shards.shards import ShardWriter
from tinygptv.definitions.filters import SIDECAR_COLUMNS, FilterChain, Rule
from tinygptv.shapes import language, tables
from tinygptv.shapes.scenes import draw, scene
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per byte; id 0 begins, ends and pads, as in Phi-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=alphabet[0], eos_token=alphabet[0])


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


@pytest.fixture
def corpus(
    tmp_path: Path, store: Store, web: Web, monkeypatch: pytest.MonkeyPatch, engine_in_this_process: None
) -> Corpus:
    """A corpus on the test's web, of which every pair is kept."""
    chain = FilterChain(about="all", rules=[Rule(name="any", keep="TRUE", why="test")])
    monkeypatch.setattr(catalog, "filter_chain", {"everything": chain}.__getitem__)
    return Corpus(tmp_path, store, web)
