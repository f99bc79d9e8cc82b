"""Scores as columns of the rows that a filter judges: joined by place, checked by key, kept with what is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tinygptv import catalog
from tinygptv.data.filters.filtering import check_chain, filter_source
from tinygptv.data.filters.preview import preview
from tinygptv.data.filters.scores import SCORES, describe_rows
from tinygptv.data.shards.shards import SIDECAR, sidecar_rows
from tinygptv.data.shards.tar import Archive
from tinygptv.data.upkeep.repair import repair
from tinygptv.data.upkeep.verify import verify
from tinygptv.data.versions.card.facts import gather
from tinygptv.definitions.filters import Deduplicate, FilterChain, Rule
from tinygptv.errors import DataError, DefinitionError
from tinygptv.judging.arrow import score_source
from tinygptv.store.artifacts import Manifest, Outcome, Store

WRONG = {4: "a wrong text of some words", 21: "another wrong text"}


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch, chain: FilterChain) -> dict[str, FilterChain]:
    known = {"chain": chain}
    monkeypatch.setattr(catalog, "filter_chain", known.__getitem__)
    return known


def test_a_rule_may_ask_what_the_scorer_said_and_it_stays_with_the_sample(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    pairs = raw(said=WRONG)
    scores = score_source(store, "t", chains["chain"], pairs)
    made = filter_source(store, "t", "chain", pairs, scores=scores)
    assert made.drops == {"unfit": 2}
    assert scores.artifact in made.parents
    folder = store.folder(made.artifact)
    kept = list(sidecar_rows(folder))
    assert {(row["itm"], row["clip"], row["recaptioned"]) for row in kept} == {(0.75, None, False)}
    assert {row["itm"] for row in pq.read_table(folder / "dropped.parquet").to_pylist()} == {0.25}
    with Archive(folder / "00000.tar") as shard:
        assert {json.loads(files["json"])["itm"] for _, files in shard} == {0.75}


def test_the_better_of_two_captions_is_kept_beside_the_original(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    chains["chain"] = chains["chain"].model_copy(update={"better_caption": True})
    pairs = raw(said=WRONG)
    made = filter_source(store, "t", "chain", pairs, scores=score_source(store, "t", chains["chain"], pairs))
    assert made.rows_out == 40
    rows = {int(row["key"]): row for row in sidecar_rows(store.folder(made.artifact))}
    assert {number for number, row in rows.items() if row["recaptioned"]} == set(WRONG)
    replaced = rows[4]
    assert replaced["caption"].startswith("ein Bild der Größe") and replaced["caption_raw"] == WRONG[4]
    assert (replaced["itm"], replaced["itc"], replaced["language"]) == (0.5, 0.5, "de")
    assert rows[5]["language"] == "en"


def test_scores_of_other_rows_are_refused(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    chain = chains["chain"]
    scores = score_source(store, "t", chain, raw())
    with pytest.raises(DataError, match="40 rows for the 39"):
        describe_rows(store, "t", chain, raw("raw/t@2", range(39)), scores)
    with pytest.raises(DataError, match="keys are not those"):
        describe_rows(store, "t", chain, raw("raw/t@3", range(1, 41)), scores)


def test_a_scored_sidecar_is_restored_with_its_scores(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    pairs = raw(said=WRONG)
    made = filter_source(store, "t", "chain", pairs, scores=score_source(store, "t", chains["chain"], pairs))
    folder = store.folder(made.artifact)
    whole = (folder / SIDECAR).read_bytes()
    (folder / SIDECAR).write_bytes(whole[: len(whole) // 2])
    (done,) = repair(str(folder))
    assert done.given_up is None and (folder / SIDECAR).read_bytes() == whole
    assert verify(str(folder)).damages == []


def test_a_threshold_on_a_score_is_previewed_and_shown_on_the_card(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    pairs = raw(said=WRONG)
    scores = score_source(store, "t", chains["chain"], pairs)
    shown = preview(store, "t", "chain", pairs, "unfit", 0.2, scores)
    assert (shown.rows, shown.kept, shown.would_keep, shown.would_come) == (40, 38, 40, 2)
    facts = gather(store, filter_source(store, "t", "chain", pairs, scores=scores))
    assert {one.name: one.median for one in facts.histograms}["image-text matching"] == 0.75


def test_a_chain_that_names_no_scorer_has_neither_its_columns_nor_its_fields() -> None:
    plain = FilterChain(about="test", rules=[Rule(name="unfit", keep="itm >= 0.5", why="test")])
    with pytest.raises(DefinitionError, match=r"unfit: .*itm"):
        check_chain("mine", plain)
    copies = Deduplicate(name="copies", by="sha256", why="test")
    dumped = FilterChain(about="test", rules=[], duplicates=[copies]).model_dump()
    assert not {"scores", "better_caption"} & dumped.keys()
    assert "at_least" not in dumped["duplicates"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"better_caption": True}, "better_caption needs a scorer"),
        ({"duplicates": [{"name": "alike", "by": "embedding", "at_least": 0.9, "why": "x"}]}, "alike needs a scorer"),
        ({"duplicates": [{"name": "alike", "by": "embedding", "why": "x"}]}, "need each other"),
        ({"duplicates": [{"name": "alike", "by": "phash", "at_least": 0.9, "why": "x"}]}, "need each other"),
    ],
)
def test_what_needs_a_scorer_is_refused_without_one(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilterChain.model_validate({"about": "test", "rules": []} | fields)


def test_scores_in_another_order_are_refused(
    store: Store, raw: Callable[..., Manifest], chains: dict[str, FilterChain], judge: Any
) -> None:
    pairs = raw()
    scores = score_source(store, "t", chains["chain"], pairs)

    def build(draft: Path) -> Outcome:
        table = pq.read_table(store.folder(scores.artifact) / SCORES)
        pq.write_table(table.take(list(reversed(range(40)))), draft / SCORES)
        return Outcome(rows_in=40, rows_out=40)

    shuffled = store.make("scores/t@shuffled", "test", {}, [], build)
    with pytest.raises(DataError, match="keys are not those"):
        describe_rows(store, "t", chains["chain"], pairs, shuffled)
