"""Scores: a row per row, in order, resumable by shard, made once for each pair, and known by what made them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.data.raw import Upstream
from tests.data.sources import pairs_source
from tinygptv import catalog
from tinygptv.data.filters.filtering import filter_source
from tinygptv.data.filters.scores import SCHEMA, SCORES
from tinygptv.data.versions import refresh as refresh_module
from tinygptv.data.versions.refresh import refresh
from tinygptv.definitions.filters import FilterChain
from tinygptv.errors import DataError, DefinitionError
from tinygptv.judging.arrow import score_source
from tinygptv.store.artifacts import Manifest, Store


def rows(store: Store, scores: Manifest) -> list[dict[str, Any]]:
    return pq.read_table(store.folder(scores.artifact) / SCORES).to_pylist()


def test_there_is_a_row_for_every_row_in_its_order(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any
) -> None:
    made = score_source(store, "t", chain, raw())
    assert made.artifact.startswith("scores/t@") and (made.rows_in, made.rows_out) == (40, 40)
    assert sorted(made.files) == [SCORES]
    assert [row["key"] for row in rows(store, made)] == [f"{number:04d}" for number in range(40)]
    assert pq.read_schema(store.folder(made.artifact) / SCORES).equals(SCHEMA)
    assert {row["clip"] for row in rows(store, made)} == {None}


def test_captions_are_scored_as_the_chain_cleans_them(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any
) -> None:
    score_source(store, "t", chain, raw(said={3: "Stock photo of the cat"}))
    assert judge.captions[3] == "the cat"


def test_an_interrupted_scoring_goes_on_with_the_next_shard_and_ends_the_same(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any
) -> None:
    pairs = raw()
    judge.patience = 20
    with pytest.raises(RuntimeError, match="killed"):
        score_source(store, "t", chain, pairs)
    judge.patience, judge.captions = 1_000, []
    made = score_source(store, "t", chain, pairs)
    assert len(judge.captions) == 40 - 16  # the first two shards were there
    store.discard(made.artifact)
    assert score_source(store, "t", chain, pairs).files == made.files


def test_a_pair_is_looked_at_once_whatever_its_key_and_place(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any
) -> None:
    first = score_source(store, "t", chain, raw())
    judge.captions = []
    second = score_source(store, "t", chain, raw("raw/t@2", [*range(5, 30), 39], {7: "wrong"}))
    assert judge.captions == ["wrong"]
    assert second.details == {"known_before": 25}
    before = {row["key"]: row for row in rows(store, first)}
    after = {row["key"]: row for row in rows(store, second)}
    assert next(iter(after)) == "0005"
    assert {key for key in after if after[key] != before[key]} == {"0007"}


def test_other_weights_give_other_scores(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, scorer = raw(), catalog.scorer("shapes")
    weights = store.local_root / "weights.safetensors"
    monkeypatch.setattr(catalog, "scorer", lambda _: scorer.model_copy(update={"text_side": str(weights)}))
    names = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        names.append(score_source(store, "t", chain, pairs).artifact)
    assert names[0] == names[2] != names[1]
    monkeypatch.setattr(catalog, "scorer", lambda _: scorer.model_copy(update={"image_size": 48}))
    assert score_source(store, "t", chain, pairs).artifact not in names


def test_a_chain_without_a_scorer_is_refused(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, judge: Any
) -> None:
    with pytest.raises(DefinitionError, match="add `scores: NAME`"):
        score_source(store, "t", FilterChain(about="test", rules=chain.rules), raw())


def test_a_chain_that_asks_for_scores_is_not_filtered_without_them(
    store: Store, raw: Callable[..., Manifest], chain: FilterChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "filter_chain", lambda _: chain)
    with pytest.raises(DataError, match="run `score` first"):
        filter_source(store, "t", "chain", raw())


def test_a_refresh_scores_what_is_new_and_is_judged_anew_by_another_scorer(
    store: Store, chain: FilterChain, judge: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(catalog, "filter_chain", lambda _: chain)
    upstream = Upstream({f"{number:03d}": {} for number in range(40)})
    monkeypatch.setattr(refresh_module, "download", upstream.download)

    def again() -> Any:
        return refresh(store, "t", pairs_source(tmp_path / "pairs.jsonl"), benchmarks={}, score=score_source)

    assert again().filtered.rows_out == 40
    assert again().outcome == "nothing_new"
    upstream.rows |= {"new": {"caption": "a wrong text"}}
    judge.captions = []
    assert again().filtered.drops == {"unfit": 1}
    assert judge.captions == ["a wrong text"]
    scorer = catalog.scorer("shapes")
    monkeypatch.setattr(catalog, "scorer", lambda _: scorer.model_copy(update={"image_size": 48}))
    assert again().outcome == "published"


def test_asking_for_scores_imports_no_torch_before_there_is_something_to_look_at() -> None:
    modules = "tinygptv.cli.main, tinygptv.data.filters.filtering, tinygptv.judging.arrow"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
