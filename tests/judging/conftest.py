"""Raw shards of plain pictures, and a scorer that counts instead of looking."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.data.raw import build_raw
from tinygptv.data.filters.scores import EMBEDDING_WIDTH
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.judging import arrow
from tinygptv.judging.judge import Judge
from tinygptv.store.artifacts import Manifest, Store

CHAIN = FilterChain(
    about="test",
    scores="shapes",
    rules=[Rule(name="unfit", keep="itm >= 0.5", why="caption and picture disagree")],
    decontaminate=None,
)


@pytest.fixture
def chain() -> FilterChain:
    """One rule, about `itm`."""
    return CHAIN


@pytest.fixture
def raw(store: Store) -> Callable[..., Manifest]:
    """A function (name, numbers of the rows, captions said instead) → a raw artifact of eight samples a shard."""

    def made(name: str = "raw/t@1", numbers: Iterable[int] = range(40), said: dict[int, str] | None = None) -> Manifest:
        texts = {number: (said or {}).get(number, f"a picture of the {number}") for number in numbers}
        return build_raw(store, name, {f"{n:04d}": {"caption": text, "caption_raw": text} for n, text in texts.items()})

    return made


class Counting(Judge):
    """Says that captions with `wrong` in them fit badly; breaks down after `patience` pairs."""

    def __init__(self) -> None:
        self.captions: list[str] = []
        self.patience = 1_000

    def score(self, images: Sequence[bytes], captions: Sequence[str]) -> dict[str, Any]:
        """As every judge."""
        if len(self.captions) + len(captions) > self.patience:
            raise RuntimeError("killed")
        self.captions += captions
        itm = np.array([0.25 if "wrong" in caption else 0.75 for caption in captions], np.float32)
        embedding = np.tile(np.eye(1, EMBEDDING_WIDTH, dtype=np.float16), (len(captions), 1))
        recaption = [f"ein Bild der Größe {len(image)} mit dem Titel" for image in images]
        again = {"recaption": recaption, "recaption_itc": itm * 0 + 0.5, "recaption_itm": itm * 0 + 0.5}
        return {"itc": itm - 0.1, "itm": itm, "embedding": embedding} | again


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """It takes the place of every scorer."""
    counting = Counting()
    monkeypatch.setattr(arrow, "open_judge", lambda _: counting)
    return counting
