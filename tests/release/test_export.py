"""A stage becomes a release, a release its int8 variant; both say what they weigh, cost and descend from."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.release.tiny import INPUTS, MODEL, adapted_model, tokenizer
from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.release import export as export_module
from tinygptv.release import quantize as quantize_module
from tinygptv.release.export import export
from tinygptv.release.folder import CARD, load_release
from tinygptv.release.measure import Cost
from tinygptv.release.quantize import quantize
from tinygptv.store.artifacts import Manifest, Outcome, Store

COST = Cost(before_loading_bytes=400_000_000, peak_bytes=432_000_000, load_seconds=0.5, tokens_per_second=99.5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedRun:
    """The tiny recipe around a tiny random model; measuring, which has tests of its own, is not done."""
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    decoder = MODEL.language_model.model_copy(update={"tokenizer": str(tmp_path / "tokenizer")})
    resolved = resolve_run("tinygptv_tiny", "shapes", "cpu")
    last = resolved.recipe.stages[-1].model_copy(update={"inputs": INPUTS})
    model = MODEL.model_copy(update={"language_model": decoder})
    assemble = ModuleType("tinygptv.train.assemble")
    vars(assemble)["load_stage_model"] = lambda store, recipe, stage_name, manifest: adapted_model()
    monkeypatch.setitem(sys.modules, "tinygptv.train.assemble", assemble)
    for module in (export_module, quantize_module):
        monkeypatch.setattr(module, "measure", lambda folder: COST)
    stages = [*resolved.recipe.stages[:-1], last]
    return replace(resolved, recipe=resolved.recipe.model_copy(update={"model": model, "stages": stages}))


@pytest.fixture
def stage(store: Store) -> Manifest:
    """A trained stage and the data it comes from, as manifests."""
    outcome = Outcome(rows_in=4000, rows_out=3529, drops={"http_404": 471})
    data = store.make("filtered/shapes-web_pairs@0000000001", "filter", {}, [], lambda folder: outcome)
    parents = [data.artifact]
    return store.make("runs/first/stage4@0000000002", "train stage4", {}, parents, lambda folder: Outcome())


def test_a_release_is_complete_and_tells_its_cost(store: Store, run: ResolvedRun, stage: Manifest) -> None:
    manifest = export(store, run, "first", stage)
    assert manifest.artifact.startswith("runs/first/export@")
    assert manifest.parents == [stage.artifact]
    assert set(manifest.files) >= {"config.json", "model.safetensors", "README.md", "tokenizer/tokenizer.json"}
    assert manifest.details["weight_bytes"] == manifest.files["model.safetensors"].bytes
    assert manifest.details["cost"]["peak_bytes"] == 432_000_000
    assert load_release(store.folder(manifest.artifact)).model.num_image_tokens == 4


def test_the_int8_variant_is_smaller_and_loads(store: Store, run: ResolvedRun, stage: Manifest) -> None:
    whole = export(store, run, "first", stage)
    small = quantize(store, run, "first", whole)
    assert small.artifact.startswith("runs/first/int8@")
    assert small.parents == [whole.artifact]
    assert small.details["weight_bytes"] < 0.7 * whole.details["weight_bytes"]
    assert small.details["int8_linears"] > 10
    assert load_release(store.folder(small.artifact)).tokenizer.get_vocab() == tokenizer().get_vocab()


def test_the_card_says_if_adapters_learned_beside_a_rounded_base(
    store: Store, run: ResolvedRun, stage: Manifest
) -> None:
    usual = export(store, run, "first", stage)
    rounded = Outcome(details={"quantize_base": "nf4"})
    stage3 = store.make("runs/second/stage3@0000000001", "train stage3", {}, [], lambda folder: rounded)
    whole = Outcome(details={"quantize_base": "none"})
    parents = [stage3.artifact]
    last = store.make("runs/second/stage4@0000000002", "train stage4", {}, parents, lambda folder: whole)
    merged = export(store, run, "second", last)
    told = "beside a base rounded to 4 bits (nf4). Here they are merged onto the whole base"
    cards = [(store.folder(manifest.artifact) / CARD).read_text() for manifest in (usual, merged)]
    assert [told in card for card in cards] == [False, True]


def test_the_card_tells_lineage_and_cost_and_admits_what_is_missing(
    store: Store, run: ResolvedRun, stage: Manifest
) -> None:
    manifest = export(store, run, "first", stage)
    card = (store.folder(manifest.artifact) / CARD).read_text()
    assert "| `filtered/shapes-web_pairs@0000000001` | filter | 3,529 of 4,000 | http_404 471 |" in card
    assert "432 MB" in card and "99.5 tokens per second" in card
    assert run.source.licence in card
    assert "Not measured when this card was written" in card
