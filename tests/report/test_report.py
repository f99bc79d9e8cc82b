"""The report: complete, self-contained, and deaf to what captions try to say to the browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.evaluate.fake_run import RUN, finished_run, resolved
from tinygptv.data.versions.versions import Version, publish
from tinygptv.report.curation import funnel
from tinygptv.report.report import REPORT, report
from tinygptv.report.results import score_table, verdict
from tinygptv.report.run_artifacts import sort_artifacts
from tinygptv.store.artifacts import Manifest, Store

VOID = {"meta", "img", "br", "line", "polyline", "rect", "link"}


class Structure(HTMLParser):
    """Counts tags, checks that they nest, and gathers addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def manifests(store: Store, tmp_path: Path) -> list[Manifest]:
    return finished_run(store, resolved(), tmp_path / "pictures")


def page_of(store: Store, manifests: list[Manifest]) -> str:
    manifest = report(store, resolved(), RUN, manifests)
    return (store.folder(manifest.artifact) / REPORT).read_text()


def test_the_page_is_well_formed_and_needs_nothing_but_itself(store: Store, manifests: list[Manifest]) -> None:
    page = page_of(store, manifests)
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert "script" not in structure.tags
    assert structure.addresses
    assert all(address.startswith("data:image/") for address in structure.addresses)
    assert not re.search(r"url\(|@import", page)
    assert len(page) < 2_000_000


def test_captions_and_answers_are_shown_as_text_never_as_markup(store: Store, manifests: list[Manifest]) -> None:
    page = page_of(store, manifests)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(&#39;caption&#39;)&lt;/script&gt;") >= 3


def test_every_part_of_the_journey_is_on_the_page(store: Store, manifests: list[Manifest]) -> None:
    page = page_of(store, manifests)
    for expected in ("Scores", "Predictions", "Curation", "Mixtures", "Training", "Size, memory, speed", "Lineage"):
        assert f"<h2>{expected}</h2>" in page
    for manifest in manifests:
        assert manifest.made_by == "evaluate" or manifest.artifact in page
    assert page.count("polyline") == 3 * 4


def test_what_gates_said_stands_with_their_stages_and_a_moved_gate_is_another_report(
    store: Store, manifests: list[Manifest]
) -> None:
    run, page = resolved(), page_of(store, manifests)
    gates = [gate for stage in run.recipe.stages for gate in stage.gates]
    last = run.recipe.stages[-1]
    assert page.count("✓ gate:") == len(gates) - len(last.gates)
    assert page.count("✗ gate:") == len(last.gates) > 0
    assert f"stage4 falls short of {last.gates[0].at_least:g} on {last.gates[0].benchmark}: " in page
    lower = last.model_copy(update={"gates": [last.gates[0].model_copy(update={"at_least": 0.0})]})
    recipe = run.recipe.model_copy(update={"stages": [*run.recipe.stages[:-1], lower]})
    moved = report(store, replace(run, recipe=recipe), RUN, manifests)
    assert moved != report(store, run, RUN, manifests)


def test_the_funnel_adds_up_to_the_last_row(manifests: list[Manifest]) -> None:
    counted = funnel(sort_artifacts(resolved().recipe, manifests))
    assert counted is not None
    assert counted.lines[-1].left == counted.kept
    assert counted.sum == "4,000 read = 3,529 kept + 471 dropped."


def test_a_funnel_that_does_not_add_up_says_so(manifests: list[Manifest]) -> None:
    artifacts = sort_artifacts(resolved().recipe, manifests)
    assert artifacts.raw is not None
    wrong = artifacts.raw.model_copy(update={"drops": artifacts.raw.drops | {"http_404": 40}})
    others = [manifest for manifest in manifests if manifest is not artifacts.raw]
    counted = funnel(sort_artifacts(resolved().recipe, [wrong, *others]))
    assert counted is not None
    assert "4,000 were read" in counted.sum


def test_scores_stand_beside_chance_and_noise_for_every_model(manifests: list[Manifest]) -> None:
    table = score_table(resolved(), sort_artifacts(resolved().recipe, manifests))
    assert table.models == ["stage1", "stage2", "stage3", "stage4", "export", "int8"]
    statements = next(row for row in table.rows if row.name == "shapes statements")
    assert (statements.chance, statements.noise) == ("0.50", "0.49")
    assert [cell.value for cell in statements.cells] == ["0.50", "0.52", "0.63", "0.93", "0.93", "0.93"]
    assert statements.cells[0].share == 0 < statements.cells[4].share


def test_the_verdict_rests_on_chance_and_noise(manifests: list[Manifest]) -> None:
    run = resolved()
    good = verdict(run, sort_artifacts(run.recipe, manifests))
    assert good.learned
    assert good.lines[0] == "The model sees: all of 9 held-out benchmarks lie clearly above chance."
    assert good.lines[2] == "With noise for pictures, all of those fall back to chance."
    peeking = [
        manifest.model_copy(update={"details": manifest.details | {"value": 0.9}})
        if manifest.details.get("noise")
        else manifest
        for manifest in manifests
    ]
    assert not verdict(run, sort_artifacts(run.recipe, peeking)).learned


def with_noise(manifests: list[Manifest], **details: object) -> list[Manifest]:
    """The manifests, with other details in the noise score of the first benchmark."""
    first = next(manifest for manifest in manifests if manifest.details.get("noise"))
    changed = first.model_copy(update={"details": first.details | details})
    return [changed if manifest is first else manifest for manifest in manifests]


def test_a_benchmark_in_words_alone_has_no_noise_and_proves_nothing_about_seeing(
    store: Store, manifests: list[Manifest]
) -> None:
    nothing = {"value": None, "low": None, "high": None, "chance": None, "lenient": None, "n": 0}
    words = with_noise(manifests, **nothing)
    artifacts = sort_artifacts(resolved().recipe, words)
    row = score_table(resolved(), artifacts).rows[0]
    assert (row.noise, row.noise_items) == ("–", "words alone")
    said = verdict(resolved(), artifacts)
    assert said.learned
    assert said.lines[0] == "The model sees: all of 8 held-out benchmarks lie clearly above chance."
    assert "Asked in words alone, which says nothing about seeing: " in said.lines[3]
    assert "<small>words alone</small>" in page_of(store, words)


def test_a_run_of_words_alone_is_not_proven_to_see(manifests: list[Manifest]) -> None:
    words = [
        manifest.model_copy(update={"details": manifest.details | {"value": None, "n": 0}})
        if manifest.details.get("noise")
        else manifest
        for manifest in manifests
    ]
    said = verdict(resolved(), sort_artifacts(resolved().recipe, words))
    assert not said.learned
    assert said.lines[0] == "Not proven to see: none has pictures."


def test_the_noise_of_a_mixed_benchmark_says_over_how_many_items_it_is(manifests: list[Manifest]) -> None:
    artifacts = sort_artifacts(resolved().recipe, with_noise(manifests, n=412))
    rows = score_table(resolved(), artifacts).rows
    assert [row.noise_items for row in rows] == ["412 with pictures", *[""] * 8]


def test_a_bleu_of_short_captions_is_not_called_bleu_4(manifests: list[Manifest]) -> None:
    short = [
        manifest.model_copy(update={"details": manifest.details | {"extra": {"ngram_order": 2}}})
        if manifest.details.get("metric") == "caption_bleu"
        else manifest
        for manifest in manifests
    ]
    rows = score_table(resolved(), sort_artifacts(resolved().recipe, short)).rows
    assert "sacreBLEU-2: no answer has four words" in [row.metric for row in rows]


def test_a_run_without_scores_still_has_a_report(store: Store, manifests: list[Manifest]) -> None:
    unfinished = [manifest for manifest in manifests if "/scores-" not in manifest.artifact]
    page = page_of(store, unfinished)
    assert "No model of this run was evaluated" in page
    assert "<h2>Predictions</h2>" not in page


def test_a_second_report_of_the_same_artifacts_is_the_first(store: Store, manifests: list[Manifest]) -> None:
    first = report(store, resolved(), RUN, manifests)
    assert report(store, resolved(), RUN, manifests) == first


def test_a_published_version_of_the_data_is_named(store: Store, manifests: list[Manifest]) -> None:
    raw, filtered = (one.artifact for one in manifests[:2])
    made = {"raw": raw, "filtered": filtered, "settings": "s", "filter": "f", "rows": 1, "published": "2026-01-01"}
    publish(store, "shapes", Version(number=1, **made))
    assert "<b>shapes, version 1</b>" in page_of(store, manifests)
