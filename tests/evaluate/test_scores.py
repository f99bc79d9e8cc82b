"""Evaluation end to end with a tiny release: items in an original format, answers, marks, chance, counted drops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.release.tiny import adapted_model, write_release
from tinygptv import catalog
from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.data.batches.batching import Collator
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.evaluate import metrics, scores
from tinygptv.evaluate.scores import (
    ANSWERS,
    SCORES,
    eval_inputs,
    evaluate,
    evaluate_model,
    extra_stop_strings,
)
from tinygptv.models.lora import merge_lora
from tinygptv.store.artifacts import Manifest, Outcome, Store
from tinygptv.store.reading import ReadingStore

BENCHMARK = Benchmark(
    about="statements", source="drawn", task="statement", metric="true_false_accuracy", max_new_tokens=4
)


@pytest.fixture
def source(tmp_path: Path) -> AnnotationsSource:
    """Forty true and false statements in VSR's layout; the picture of two more is missing."""
    lines = []
    for number in range(42):
        if number < 40:
            Image.new("RGB", (20, 20), (6 * number, 80, 90)).save(tmp_path / f"{number}.png")
        label = number % 2
        relation = "is/low" if number < 20 else "is/high"
        record = {"image": f"{number}.png", "caption": f"it is {number}", "label": label, "relation": relation}
        lines.append(json.dumps(record))
    (tmp_path / "statements.jsonl").write_text("\n".join(lines) + "\n")
    return AnnotationsSource(
        kind="annotations",
        about="drawn here",
        licence="none",
        format="vsr",
        files={"annotations": str(tmp_path / "statements.jsonl")},
        images=str(tmp_path),
    )


@pytest.fixture
def run(source: AnnotationsSource) -> ResolvedRun:
    resolved = resolve_run("tinygptv_tiny", "shapes", "cpu")
    return replace(resolved, benchmarks={"statements": BENCHMARK}, sources={"drawn": source})


@pytest.fixture
def released(store: Store) -> Manifest:
    def build(folder: Path) -> Outcome:
        model = adapted_model()
        merge_lora(model.language_model)
        write_release(folder, model)
        return Outcome()

    return store.make("runs/first/export@0123456789", "export", {}, [], build)


def test_every_item_is_answered_or_counted_as_dropped(store: Store, run: ResolvedRun, released: Manifest) -> None:
    manifest = evaluate(store, run, "first", "export", released, "statements")
    assert manifest.artifact.startswith("runs/first/scores-export-statements@")
    assert (manifest.rows_in, manifest.rows_out) == (42, 40)
    assert {reason: count for reason, count in manifest.drops.items() if count} == {"missing_image": 2}
    folder = store.folder(manifest.artifact)
    answers = [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]
    assert len({answer["key"] for answer in answers}) == 40
    assert answers[3]["truth"] == "true" and answers[3]["image"] == "3.png"
    scores = json.loads((folder / SCORES).read_text())
    assert scores["value"] == pytest.approx(sum(answer["correct"] for answer in answers) / 40)
    assert scores["chance"] == 0.5
    assert scores["low"] <= scores["value"] <= scores["high"]
    assert scores["unparsed"] == sum(not answer["parsed"] for answer in answers)


def test_items_too_long_for_the_decoder_are_left_out_by_count(
    store: Store, run: ResolvedRun, released: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter([300, 256, *[255] * 38])
    monkeypatch.setattr(Collator, "prompt_length", lambda *_: next(lengths, 100))
    manifest = evaluate(store, run, "first", "export", released, "statements")
    assert (manifest.rows_in, manifest.rows_out, manifest.drops["prompt_too_long"]) == (42, 38, 2)
    assert manifest.rows_in == manifest.rows_out + sum(manifest.drops.values())


def test_noise_is_an_evaluation_of_its_own(store: Store, run: ResolvedRun, released: Manifest) -> None:
    (seen,) = evaluate_model(store, run, "first", "export", released, ["statements"]).values()
    (noise,) = evaluate_model(store, run, "first", "export", released, ["statements"], noise=True).values()
    assert noise.artifact.startswith("runs/first/scores-export-statements-noise@")
    assert noise.details["noise"] and not seen.details["noise"]


def test_a_finished_evaluation_is_not_repeated(store: Store, run: ResolvedRun, released: Manifest) -> None:
    first = evaluate(store, run, "first", "export", released, "statements")
    assert evaluate(store, run, "first", "export", released, "statements") == first


def test_a_benchmark_may_state_its_chance_and_ask_fewer_items(
    store: Store, run: ResolvedRun, released: Manifest
) -> None:
    fewer = BENCHMARK.model_copy(update={"chance": 0.4, "max_items": 10})
    smaller = replace(run, benchmarks={"statements": fewer})
    manifest = evaluate(store, smaller, "first", "export", released, "statements")
    assert (manifest.details["n"], manifest.details["chance"], manifest.drops["over_max_items"]) == (10, 0.4, 30)


def test_a_benchmark_may_have_its_groups_compared(store: Store, run: ResolvedRun, released: Manifest) -> None:
    compared = BENCHMARK.model_copy(update={"compare_groups": True})
    manifest = evaluate(
        store, replace(run, benchmarks={"statements": compared}), "first", "export", released, "statements"
    )
    groups = manifest.details["groups"]
    assert set(groups) == {"is/low", "is/high"}
    assert sum(groups.values()) / 2 == pytest.approx(manifest.details["value"])
    assert manifest.details["extra"]["spread"] == pytest.approx(abs(groups["is/low"] - groups["is/high"]))


def test_a_toy_benchmark_with_a_toy_metric_is_evaluated(
    store: Store, run: ResolvedRun, released: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = Path(__file__).parent / "toys"
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(toys))
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(toys / "metrics")])
    toy = replace(run, benchmarks={"toy_words": catalog.benchmark("toy_words")})
    manifest = evaluate(store, toy, "first", "export", released, "toy_words")
    scores = json.loads((store.folder(manifest.artifact) / SCORES).read_text())
    assert (scores["metric"], scores["n"], scores["lenient"], scores["chance"]) == ("shared_words", 40, None, 0.5)


def test_an_impossible_question_is_refused_before_any_work(store: Store, run: ResolvedRun, released: Manifest) -> None:
    wrong = replace(run, benchmarks={"statements": BENCHMARK.model_copy(update={"task": "refer"})})
    with pytest.raises(DefinitionError, match=r"benchmarks/statements\.yaml, task: vsr items cannot be asked 'refer'"):
        evaluate(store, wrong, "first", "export", released, "statements")


def test_a_benchmark_without_usable_items_is_an_error(
    store: Store, run: ResolvedRun, released: Manifest, tmp_path: Path
) -> None:
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    with pytest.raises(DataError, match="no usable item among 42"):
        evaluate(store, run, "first", "export", released, "statements")


@pytest.fixture
def mixed(tmp_path: Path, run: ResolvedRun) -> ResolvedRun:
    """Items of one picture, of two, and in words alone, in LLaVA's layout: benchmarks `mixed` and `words`."""
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 80, 90)).save(tmp_path / f"p{number}.png")
    records = [
        {"id": "one", "image": "p0.png", "conversations": talk("[vqa] what is it?")},
        {"id": "two", "image": ["p1.png", "p2.png"], "conversations": talk("is <image> like <image>?")},
        {"id": "words", "conversations": talk("what comes after one?")},
    ]
    sources, benchmarks = {}, {}
    for name, some in (("mixed", records), ("words", records[2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
        benchmarks[name] = Benchmark(
            about="own", source=name, task="conversation", metric="exact_match", max_new_tokens=4
        )
        sources[name] = AnnotationsSource(
            kind="annotations",
            about="drawn here",
            licence="none",
            format="llava_conversation",
            files={"annotations": str(tmp_path / f"{name}.jsonl")},
            images=str(tmp_path),
        )
    return replace(run, benchmarks=benchmarks, sources=sources)


def talk(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "blue"}]


def test_noise_stands_for_each_picture_and_words_alone_are_left_out_of_it(
    store: Store, mixed: ResolvedRun, released: Manifest
) -> None:
    seen = evaluate(store, mixed, "first", "export", released, "mixed")
    noise = evaluate(store, mixed, "first", "export", released, "mixed", noise=True)
    assert (seen.details["n"], noise.details["n"], noise.rows_out) == (3, 2, 2)
    assert noise.drops["no_picture"] == 1
    assert 0 <= noise.details["value"] <= 1
    answers = (store.folder(noise.artifact) / ANSWERS).read_text().splitlines()
    assert [json.loads(line)["key"] for line in answers] == ["one", "two"]


@pytest.mark.filterwarnings("error")
def test_a_benchmark_in_words_alone_has_no_value_with_noise(
    store: Store, mixed: ResolvedRun, released: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(store, mixed, "first", "export", released, "words").details["n"] == 1
    monkeypatch.setattr(scores, "_loaded", None)  # no model is needed for it
    noise = evaluate(store, mixed, "first", "export", released, "words", noise=True)
    assert (noise.rows_in, noise.rows_out, noise.drops["no_picture"]) == (1, 0, 1)
    written = json.loads((store.folder(noise.artifact) / SCORES).read_text())
    assert (written["value"], written["chance"], written["n"]) == (None, None, 0)


@pytest.mark.parametrize("noise", [False, True])
def test_a_picture_that_cannot_be_decoded_costs_its_item_and_no_other(
    store: Store, run: ResolvedRun, released: Manifest, tmp_path: Path, noise: bool
) -> None:
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    (tmp_path / "4.png").write_text("<html>gone</html>")
    manifest = evaluate(store, run, "first", "export", released, "statements", noise=noise)
    assert (manifest.rows_in, manifest.rows_out) == (42, 38)
    assert {reason: count for reason, count in manifest.drops.items() if count} == {
        "missing_image": 2,
        "unusable_item": 2,
    }


def test_a_benchmark_none_of_whose_pictures_can_be_decoded_is_an_error(
    store: Store, run: ResolvedRun, released: Manifest, tmp_path: Path
) -> None:
    for picture in tmp_path.glob("*.png"):
        picture.write_text("<html>gone</html>")
    with pytest.raises(DataError, match=r"no item can be asked \(missing_image 2, unusable_item 40\): .*not_image"):
        evaluate(store, run, "first", "export", released, "statements")


@pytest.mark.parametrize(
    ("metric", "reason"),
    [("vqa_accuracy", "too_few_answers 40; `metric: exact_match`"), ("referring_iou", "no_box 40")],
)
def test_a_metric_that_no_item_is_made_for_is_refused_before_a_model_is_loaded(
    store: Store,
    run: ResolvedRun,
    released: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    reason: str,
) -> None:
    monkeypatch.setattr(scores, "_loaded", None)
    wrong = replace(run, benchmarks={"statements": BENCHMARK.model_copy(update={"metric": metric})})
    with pytest.raises(DataError, match=f"no usable item among 42 .missing_image 2, {reason}"):
        evaluate(store, wrong, "first", "export", released, "statements")


def test_a_stage_trained_without_prompt_is_asked_with_the_template_of_the_others() -> None:
    recipe = resolve_run("tinygptv_tiny", "shapes", "cpu").recipe
    inputs, words = eval_inputs(recipe, "stage1"), recipe.stage("stage4").inputs
    assert (inputs.template, inputs.end_symbol) == (words.template, words.end_symbol)
    assert inputs.image_size == recipe.stage("stage1").inputs.image_size
    assert eval_inputs(recipe, "stage4") == words


def test_a_stage_asked_in_borrowed_words_may_end_its_answers_as_it_learned_to() -> None:
    recipe = resolve_run("tinygptv_tiny", "shapes", "cpu").recipe
    assert extra_stop_strings(recipe, "stage1") == (recipe.stage("stage1").inputs.end_symbol,)
    assert extra_stop_strings(recipe, "stage4") == ()


def test_scores_of_a_stage_asked_in_borrowed_words_are_others_in_other_words(
    store: Store, run: ResolvedRun, released: Manifest
) -> None:
    asked = []

    def missing(artifact: str, _: dict[str, Any], parents: list[str]) -> Manifest:
        asked.append(artifact)
        return released

    def ask(recipe: Recipe, stage: str) -> str:
        evaluate(
            ReadingStore(store.workdir, missing), replace(run, recipe=recipe), "first", stage, released, "statements"
        )
        return asked[-1]

    stages = []
    for stage in run.recipe.stages:
        inputs = stage.inputs.model_copy(update={"template": stage.inputs.template and "Q: {}"})
        stages.append(stage.model_copy(update={"inputs": inputs}))
    reworded = run.recipe.model_copy(update={"stages": stages})
    assert ask(run.recipe, "stage1") != ask(reworded, "stage1")
    assert ask(run.recipe, "stage4") == ask(reworded, "stage4")  # its own words are in the name of its artifact
