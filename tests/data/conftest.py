"""Tiny everything for data: a corpus of a few dozen scenes per file, curated pairs, a byte-level tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.data.shapes import language, layouts, tables
from tinygptv.data.shapes.scenes import draw, scene
from tinygptv.data.shards import ShardWriter
from tinygptv.definitions.filters import SIDECAR_COLUMNS


@pytest.fixture
def small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a test runs, `draw_corpus` draws this much instead of all: the same layouts in a second."""
    monkeypatch.setattr(tables, "SIZES", {"laion": 130, "cc3m": 100, "sbu": 97})
    small = {split: dict.fromkeys(sizes, 36) for split, sizes in layouts.SIZES.items()}
    monkeypatch.setattr(layouts, "SIZES", small)


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
