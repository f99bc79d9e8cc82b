"""Copies by embedding: exactly the pairs a plain comparison finds, the same survivor every time, in bounded memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.judged import write_rows
from tinygptv.data.columns.database import connect
from tinygptv.data.filters import semantic
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import KEPT, judge
from tinygptv.data.filters.scores import EMBEDDING_WIDTH, SCHEMA
from tinygptv.data.filters.semantic import near_pairs
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.filters import Deduplicate, FilterChain
from tinygptv.errors import DataError


def write_scores(folder: Path, vectors: np.ndarray, absent: tuple[int, ...] = ()) -> Path:
    """A scores table with these embeddings."""
    said = [None if number in absent else vector for number, vector in enumerate(vectors)]
    rows = [{"key": f"{number:04d}", "embedding": vector} for number, vector in enumerate(said)]
    path = folder / "scores.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return path


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_the_pairs_are_those_of_a_plain_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", 16)
    random = np.random.default_rng(0)
    centres = random.standard_normal((9, EMBEDDING_WIDTH))
    vectors = unit(centres[random.integers(0, 9, 75)] + 0.25 * random.standard_normal((75, EMBEDDING_WIDTH)))
    scores = write_scores(tmp_path, vectors, absent=(3, 40))
    found = {tuple(pair) for pair in near_pairs(scores, 0.94, tmp_path).tolist()}
    cosines = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    cosines[[3, 40]] = cosines[:, [3, 40]] = 0
    expected = {(one, other) for one, other in np.argwhere(cosines >= 0.94).tolist() if one < other}
    assert found == expected and len(expected) > 50


def chain_of_neighbours() -> np.ndarray:
    """Four unit vectors, ten degrees from each to the next."""
    angles = np.radians([0, 10, 20, 30])
    vectors = np.zeros((4, EMBEDDING_WIDTH))
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return unit(vectors)


@pytest.mark.parametrize(("order", "survivors"), [("key", {0, 2}), ("table_row DESC, key", {1, 3})])
def test_whoever_is_near_no_survivor_survives_in_order(order: str, survivors: set[int], tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "rows", [{} for _ in range(4)])
    scores = write_scores(tmp_path, chain_of_neighbours())
    step = Deduplicate(name="alike", by="embedding", at_least=0.98, order=order, why="test")
    chain = FilterChain(about="test", scores="any", rules=[], decontaminate=None, duplicates=[step])
    with connect(tmp_path) as database:
        judgement = judge(Rows(database, folder / SIDECAR, folder, scores=scores), chain)
    assert set(np.flatnonzero(judgement.verdicts == KEPT).tolist()) == survivors
    assert judgement.funnel == [
        {
            "rule": "alike",
            "why": "test",
            "kind": "duplicates",
            "dropped_first": 2,
            "dropped_alone": 2,
            "dropped_only": 2,
        }
    ]


def test_a_cosine_that_makes_everything_a_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_MOST_PAIRS", 5)
    scores = write_scores(tmp_path, np.tile(chain_of_neighbours(), (3, 1)))
    with pytest.raises(DataError, match=r"more than 5 pairs .* raise at_least"):
        near_pairs(scores, 0.5, tmp_path)


def test_nothing_is_near_in_an_empty_table(tmp_path: Path) -> None:
    assert near_pairs(write_scores(tmp_path, np.empty((0, EMBEDDING_WIDTH))), 0.9, tmp_path).shape == (0, 2)
