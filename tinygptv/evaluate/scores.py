"""A model and a benchmark → answers.jsonl and scores.json."""

import functools
import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygptv.catalog import ResolvedRun
from tinygptv.data.annotations import TASKS, read_annotations
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.recipe import Inputs, Recipe
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.definitions.template import Prompting
from tinygptv.errors import DataError, DefinitionError
from tinygptv.evaluate.items import Item, answered_items, choose_items, summary
from tinygptv.evaluate.metric import Mark
from tinygptv.evaluate.scoring import SCORING_VERSION, Score, by_group, chance, mark, score, spread
from tinygptv.sample import Sample
from tinygptv.shapes.files import draw_corpus
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.locations import local_path

if TYPE_CHECKING:
    from tinygptv.release.folder import Release

logger = logging.getLogger(__name__)

ANSWERS, SCORES = "answers.jsonl", "scores.json"


def evaluate(
    store: Store,
    run: ResolvedRun,
    run_name: str,
    model_name: str,
    model: Manifest,
    benchmark_name: str,
    noise: bool = False,
    items: int | None = None,
) -> Manifest:
    """Run one model of the run on a benchmark: a stage by its name, `export` or `int8`.

    With `noise`, images are replaced by noise, to measure what the model achieves without seeing; items without images
    are dropped, and a benchmark without images then has no value. `items` limits the number of items for a quick check
    that does not count as a score of the run. Dropped items are counted by reason. The model stays loaded until another
    one is evaluated, or `unload` is called.

    Raises DefinitionError if the benchmark's definition is wrong, DataError if it has no usable item.
    """
    benchmark = _limited(run.benchmarks[benchmark_name], items)
    source = _annotations_source(run, benchmark_name, benchmark)
    definition = _definition(run.recipe, model_name, benchmark, source, noise)
    parents = [model.artifact]
    if source.images.startswith("embedded:"):
        parents.append(draw_corpus(store).artifact)

    def build(draft: Path) -> Outcome:
        annotations = read_annotations(store, benchmark.source, source)
        asked, drops = choose_items(benchmark, annotations, noise)
        texts: list[str] = []
        if asked:
            answers = _answers(store, run, model_name, model, benchmark, asked, noise)
            asked, texts = answered_items(benchmark_name, benchmark, asked, answers, drops)
        elif not (noise and drops["no_picture"]):
            raise DataError(
                f"benchmark '{benchmark_name}': no usable item among {annotations.rows_in} "
                f"({summary(benchmark, drops)})"
                f"{annotations.first_error and '; '}{annotations.first_error}"
            )
        details = _write(draft, benchmark, asked, texts, annotations.images)
        logger.info("evaluate %s on %s%s: %s", model_name, benchmark_name, " (noise)" * noise, _describe(details))
        return Outcome(
            rows_in=annotations.rows_in,
            rows_out=len(asked),
            drops=dict(drops),
            details={"model": model_name, "benchmark": benchmark_name, "noise": noise, **details},
        )

    kind = "scores" if items is None else "gate"
    place = f"runs/{run_name}/{kind}-{model_name}-{benchmark_name}{'-noise' * noise}"
    return store.make(artifact_name(place, definition, parents), "evaluate", definition, parents, build)


def _limited(benchmark: Benchmark, items: int | None) -> Benchmark:
    """The benchmark with at most `items` items."""
    if items is None:
        return benchmark
    return benchmark.model_copy(update={"max_items": min(items, benchmark.max_items or items)})


def _definition(
    recipe: Recipe, model_name: str, benchmark: Benchmark, source: AnnotationsSource, noise: bool
) -> dict[str, Any]:
    """What the scores depend on, besides the model."""
    definition = {
        "benchmark": benchmark.model_dump(mode="json"),
        "source": source.model_dump(mode="json"),
        "model": model_name,
        "scoring": SCORING_VERSION,
        "noise": "gaussian, of average brightness and contrast" if noise else False,
    }
    if model_name in {stage.stage for stage in recipe.stages}:
        inputs = eval_inputs(recipe, model_name)
        if inputs != recipe.stage(model_name).inputs:  # not covered by the hash of the stage's artifact
            stops = [*extra_stop_strings(recipe, model_name)]
            definition["asked"] = inputs.model_dump(mode="json") | {"other_ends": stops}
    return definition


def _answers(
    store: Store,
    run: ResolvedRun,
    model_name: str,
    model: Manifest,
    benchmark: Benchmark,
    asked: list[Item],
    noise: bool,
) -> list[str | DataError]:
    """The model's answer to each item, or why it could not be asked."""
    from tinygptv.release.answering import answer_all

    release = _loaded(store.workdir, model.artifact, model_name, run.recipe.model_dump_json(), run.hardware.device)
    samples = [sample for sample, _ in asked]
    return answer_all(release, samples, benchmark.task, benchmark.max_new_tokens, noise=noise)


def evaluate_model(
    store: Store,
    run: ResolvedRun,
    run_name: str,
    model_name: str,
    model: Manifest,
    benchmark_names: Iterable[str],
    noise: bool = False,
) -> dict[str, Manifest]:
    """Run one model, loaded once, on several benchmarks. Returns scores by benchmark name."""
    return {name: evaluate(store, run, run_name, model_name, model, name, noise) for name in benchmark_names}


def unload() -> None:
    """Release the model that was evaluated last: training needs the memory."""
    _loaded.cache_clear()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def eval_inputs(recipe: Recipe, stage_name: str) -> Inputs:
    """The inputs that a stage's model is evaluated with.

    These are its own, except that a stage trained without a prompt uses the prompt of the first stage that has one.
    """
    inputs = recipe.stage(stage_name).inputs
    prompted = [stage.inputs for stage in recipe.stages if stage.inputs.template is not None]
    if inputs.template is None and prompted:
        return inputs.model_copy(update={field: getattr(prompted[0], field) for field in Prompting.model_fields})
    return inputs


def extra_stop_strings(recipe: Recipe, stage_name: str) -> tuple[str, ...]:
    """Strings, besides the end symbol of the evaluation prompt, that end an answer of a stage's model.

    A model evaluated with a prompt that it was not trained on may end an answer with the prompt's end symbol, as its
    frozen language model does, or with the one that it was trained with.
    """
    trained, evaluated = recipe.stage(stage_name).inputs, eval_inputs(recipe, stage_name)
    return (trained.end_symbol,) if trained.end_symbol != evaluated.end_symbol else ()


@functools.lru_cache(maxsize=1)
def _loaded(workdir: str, artifact: str, model_name: str, recipe_json: str, device: str) -> "Release":
    """Load a model and keep it until another is loaded. All arguments are strings, to be hashable as cache keys."""
    from tinygptv.release.folder import load_release

    store, recipe = Store(workdir), Recipe.model_validate_json(recipe_json)
    if model_name in {stage.stage for stage in recipe.stages}:
        return _load_stage(store, recipe, model_name, artifact, device)
    return load_release(store.folder(artifact), device)


def _load_stage(store: Store, recipe: Recipe, stage_name: str, artifact: str, device: str) -> "Release":
    from tinygptv.data.batches.batching import load_tokenizer
    from tinygptv.release.folder import Release
    from tinygptv.train.assemble import load_stage_model

    manifest = store.find(artifact)
    assert manifest is not None
    model = load_stage_model(store, recipe, stage_name, manifest).to(device).eval()
    tokenizer = load_tokenizer(local_path(recipe.model.language_model.tokenizer))
    return Release(model, tokenizer, eval_inputs(recipe, stage_name), extra_stop_strings(recipe, stage_name))


def _annotations_source(run: ResolvedRun, benchmark_name: str, benchmark: Benchmark) -> AnnotationsSource:
    source = run.sources[benchmark.source]
    where = f"datasets/benchmarks/{benchmark_name}.yaml"
    if not isinstance(source, AnnotationsSource):
        raise DefinitionError(f"{where}, source: '{benchmark.source}' holds URL pairs; use an annotations source")
    if benchmark.task not in TASKS[source.format]:
        raise DefinitionError(
            f"{where}, task: {source.format} items do not support the task '{benchmark.task}'; "
            f"choose one of {', '.join(TASKS[source.format])}"
        )
    return source


def _write(draft: Path, benchmark: Benchmark, asked: list[Item], answers: list[str], images: Path) -> dict[str, Any]:
    """Write answers.jsonl and scores.json; returns the content of scores.json."""
    truths = [truth for _, truth in asked]
    with (draft / ANSWERS).open("w", encoding="utf-8") as stream:
        for (sample, truth), answer in zip(asked, answers, strict=True):
            result = mark(benchmark.metric, answer, truth)
            stream.write(json.dumps(_record(sample, answer, result, images), ensure_ascii=False) + "\n")
    scores: dict[str, Any] = {"metric": benchmark.metric, "task": benchmark.task}
    if asked:
        chance_score = benchmark.chance if benchmark.chance is not None else chance(benchmark.metric, truths)
        scores |= {**asdict(score(benchmark.metric, answers, truths)), "chance": chance_score}
        if benchmark.compare_groups:
            groups = by_group(benchmark.metric, answers, truths)
            scores |= {"groups": groups, "extra": scores["extra"] | {"spread": spread(groups)}}
    else:
        scores |= {field.name: None for field in fields(Score)} | {"chance": None, "n": 0, "unparsed": 0, "extra": {}}
    (draft / SCORES).write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def _record(sample: Sample, answer: str, result: Mark, images: Path) -> dict[str, Any]:
    image = str(Path(sample.images[0].path).relative_to(images)) if sample.images else None
    return {
        "key": sample.key,
        "question": sample.turns[0].instruction,
        "answer": answer,
        "truth": sample.turns[0].answer,
        "correct": result.strict,
        "lenient": result.lenient,
        "parsed": result.parsed,
        "image": image,
        "box": sample.boxes[0] if sample.boxes else None,
    }


def _describe(scores: dict[str, Any]) -> str:
    if not scores["n"]:
        return "no value: no item has an image"
    return f"{scores['value']:.3f} (chance {scores['chance']:.3f}, {scores['n']} items, {scores['unparsed']} unparsed)"
