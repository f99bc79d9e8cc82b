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
    """Put a benchmark's questions to one model of the run: a stage by its name, `export` or `int8`.

    With `noise` every picture is replaced by noise: what is left of the score was never seen. Items in words alone are
    left out of it; a benchmark of nothing else then has no value. With `items` no more of them are asked: a quick look,
    which is no score of the run. Items that cannot be scored or asked are counted. The model stays loaded until another
    is asked, or `unload`. Raises DefinitionError if the benchmark cannot be asked, DataError if it has no usable item.
    """
    benchmark = run.benchmarks[benchmark_name]
    if items is not None:
        most = min(items, benchmark.max_items or items)
        benchmark = benchmark.model_copy(update={"max_items": most})
    source = _annotations_source(run, benchmark_name, benchmark)
    definition = {
        "benchmark": benchmark.model_dump(mode="json"),
        "source": source.model_dump(mode="json"),
        "model": model_name,
        "scoring": SCORING_VERSION,
        "noise": "gaussian, of average brightness and contrast" if noise else False,
    }
    if model_name in {stage.stage for stage in run.recipe.stages}:
        asked = eval_inputs(run.recipe, model_name)
        if asked != run.recipe.stage(model_name).inputs:  # then its artifact does not say how it is asked
            definition["asked"] = asked.model_dump(mode="json") | {
                "other_ends": [*extra_stop_strings(run.recipe, model_name)]
            }
    parents = [model.artifact]
    if source.images.startswith("embedded:"):
        parents.append(draw_corpus(store).artifact)

    def build(draft: Path) -> Outcome:
        from tinygptv.release.answering import answer_all

        items = read_annotations(store, benchmark.source, source)
        kept, drops = choose_items(benchmark, items, noise)
        said: list[str] = []
        if kept:
            recipe_json = run.recipe.model_dump_json()
            release = _loaded(store.workdir, model.artifact, model_name, recipe_json, run.hardware.device)
            samples = [sample for sample, _ in kept]
            answers = answer_all(release, samples, benchmark.task, benchmark.max_new_tokens, noise=noise)
            kept, said = answered_items(benchmark_name, benchmark, kept, answers, drops)
        elif not (noise and drops["no_picture"]):
            raise DataError(
                f"benchmark '{benchmark_name}': no usable item among {items.rows_in} ({summary(benchmark, drops)})"
                f"{items.first_trouble and '; '}{items.first_trouble}"
            )
        details = _write(draft, benchmark, kept, said, items.images)
        logger.info("evaluate %s on %s%s: %s", model_name, benchmark_name, " (noise)" * noise, _told(details))
        return Outcome(
            rows_in=items.rows_in,
            rows_out=len(kept),
            drops=dict(drops),
            details={"model": model_name, "benchmark": benchmark_name, "noise": noise, **details},
        )

    kind = "scores" if items is None else "gate"
    place = f"runs/{run_name}/{kind}-{model_name}-{benchmark_name}{'-noise' * noise}"
    return store.make(artifact_name(place, definition, parents), "evaluate", definition, parents, build)


def evaluate_model(
    store: Store,
    run: ResolvedRun,
    run_name: str,
    model_name: str,
    model: Manifest,
    benchmark_names: Iterable[str],
    noise: bool = False,
) -> dict[str, Manifest]:
    """Several benchmarks of one model, which is loaded once; by benchmark name."""
    return {name: evaluate(store, run, run_name, model_name, model, name, noise) for name in benchmark_names}


def unload() -> None:
    """Forget the model that was asked last: training needs its memory."""
    _loaded.cache_clear()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def eval_inputs(recipe: Recipe, stage_name: str) -> Inputs:
    """The inputs a stage's model is questioned with: its own, but where it was trained without any prompt, the words of
    the recipe's first stage that has some, for a question needs them."""
    inputs = recipe.stage(stage_name).inputs
    others = [stage.inputs for stage in recipe.stages if stage.inputs.template is not None]
    if inputs.template is None and others:
        return inputs.model_copy(update={field: getattr(others[0], field) for field in Prompting.model_fields})
    return inputs


def extra_stop_strings(recipe: Recipe, stage_name: str) -> tuple[str, ...]:
    """How a stage's model may end an answer beside the end symbol of the words it is asked in: as it learned to.

    Asked in words that it was never trained on, it ends in either way: with theirs, as its frozen language model has
    always done behind such words, or with its own.
    """
    own, asked = recipe.stage(stage_name).inputs, eval_inputs(recipe, stage_name)
    return (own.end_symbol,) if own.end_symbol != asked.end_symbol else ()


@functools.lru_cache(maxsize=1)
def _loaded(workdir: str, artifact: str, model_name: str, recipe_json: str, device: str) -> "Release":
    """The last model asked for stays in memory; the arguments are plain text to be a cache's key."""
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
        raise DefinitionError(f"{where}, source: '{benchmark.source}' holds URL pairs; name an annotations source")
    if benchmark.task not in TASKS[source.format]:
        raise DefinitionError(
            f"{where}, task: {source.format} items cannot be asked '{benchmark.task}'; "
            f"choose one of {', '.join(TASKS[source.format])}"
        )
    return source


def _write(draft: Path, benchmark: Benchmark, asked: list[Item], answers: list[str], images: Path) -> dict[str, Any]:
    """Write both files; returns what scores.json holds."""
    truths = [truth for _, truth in asked]
    with (draft / ANSWERS).open("w", encoding="utf-8") as stream:
        for (sample, truth), answer in zip(asked, answers, strict=True):
            judged = mark(benchmark.metric, answer, truth)
            stream.write(json.dumps(_record(sample, answer, judged, images), ensure_ascii=False) + "\n")
    scores: dict[str, Any] = {"metric": benchmark.metric, "task": benchmark.task}
    if asked:
        by_chance = benchmark.chance if benchmark.chance is not None else chance(benchmark.metric, truths)
        scores |= {**asdict(score(benchmark.metric, answers, truths)), "chance": by_chance}
        if benchmark.compare_groups:
            groups = by_group(benchmark.metric, answers, truths)
            scores |= {"groups": groups, "extra": scores["extra"] | {"spread": spread(groups)}}
    else:
        scores |= {field.name: None for field in fields(Score)} | {"chance": None, "n": 0, "unparsed": 0, "extra": {}}
    (draft / SCORES).write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def _record(sample: Sample, answer: str, judged: Mark, images: Path) -> dict[str, Any]:
    image = str(Path(sample.images[0].path).relative_to(images)) if sample.images else None
    return {
        "key": sample.key,
        "question": sample.turns[0].instruction,
        "answer": answer,
        "truth": sample.turns[0].answer,
        "correct": judged.strict,
        "lenient": judged.lenient,
        "parsed": judged.parsed,
        "image": image,
        "box": sample.boxes[0] if sample.boxes else None,
    }


def _told(scores: dict[str, Any]) -> str:
    if not scores["n"]:
        return "no value, for no item has a picture"
    return f"{scores['value']:.3f} (chance {scores['chance']:.3f}, {scores['n']} items, {scores['unparsed']} unparsed)"
