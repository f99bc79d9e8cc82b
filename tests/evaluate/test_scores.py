"""Evaluation end to end with a tiny release: items in an original format, answers, marks, chance, counted drops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.release.tiny import adapted_model, write_release
from tinygptv.artifacts import Manifest, Outcome, Store
from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.data.batching import Collator
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.evaluate.scores import (
    ANSWERS,
    SCORES,
    asking_inputs,
    chosen,
    evaluate,
    evaluate_model,
    other_ends,
    truth_of,
)
from tinygptv.journey import ReadingStore
from tinygptv.models.lora import merge_lora
from tinygptv.sample import ImageReference, Sample, Turn

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


def test_a_limited_choice_does_not_depend_on_the_order_of_the_file() -> None:
    samples = [Sample(str(number), (), (Turn("q", "a"),)) for number in range(50)]
    assert chosen(samples, 7) == chosen(samples[::-1], 7)
    assert chosen(samples, None) == samples


def test_boxes_are_judged_on_the_size_of_their_picture(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    image = ImageReference(str(tmp_path / "a.png"))
    truth = truth_of(Sample("k", (image,), (Turn("the dog", "{<0><0><50><50>}"),), boxes=((0, 0, 0.5, 0.5),)))
    assert truth.image_size == (30, 20)
    assert truth.answers == ("{<0><0><50><50>}",)


def test_a_stage_trained_without_prompt_is_asked_with_the_template_of_the_others() -> None:
    recipe = resolve_run("tinygptv_tiny", "shapes", "cpu").recipe
    inputs, words = asking_inputs(recipe, "stage1"), recipe.stage("stage4").inputs
    assert (inputs.template, inputs.end_symbol) == (words.template, words.end_symbol)
    assert inputs.image_size == recipe.stage("stage1").inputs.image_size
    assert asking_inputs(recipe, "stage4") == words


def test_a_stage_asked_in_borrowed_words_may_end_its_answers_as_it_learned_to() -> None:
    recipe = resolve_run("tinygptv_tiny", "shapes", "cpu").recipe
    assert other_ends(recipe, "stage1") == (recipe.stage("stage1").inputs.end_symbol,)
    assert other_ends(recipe, "stage4") == ()


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
