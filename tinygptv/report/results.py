"""The results section of the report: scores of every stage, the verdict, predictions, size and speed."""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from tinygptv.catalog import ResolvedRun
from tinygptv.data.prompting.boxes import read_box
from tinygptv.errors import DataError
from tinygptv.evaluate.metric import load_metric
from tinygptv.evaluate.scores import ANSWERS
from tinygptv.report.curation import shortened
from tinygptv.report.pictures import Picture, picture
from tinygptv.report.run_artifacts import EXPORT, QUANTIZED, RunArtifacts
from tinygptv.shapes.files import corpus_folder
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.store.locations import local_path

_NEAR_CHANCE = 0.05
_HEAT_PERCENT = 55
_PREDICTIONS = 6
_NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One model's score on one benchmark; `share` is the shade of the cell in percent."""

    value: str
    interval: str
    share: int


@dataclass(frozen=True)
class ScoreRow:
    """One benchmark across all models. `noise_items` says how many items the noise score covers, if not all."""

    name: str
    metric: str
    n: int
    chance: str
    noise: str
    noise_items: str
    cells: list[Cell]
    lenient: str
    unparsed: str


@dataclass(frozen=True)
class ScoreTable:
    """Benchmarks down, models across."""

    models: list[str]
    noise_model: str
    lenient_model: str
    rows: list[ScoreRow]


@dataclass(frozen=True)
class Verdict:
    """Whether the model learned to see, and the evidence."""

    learned: bool
    lines: list[str]


@dataclass(frozen=True)
class Prediction:
    """One answer and the ground truth."""

    picture: Picture
    question: str
    answer: str
    truth: str
    right: bool


@dataclass(frozen=True)
class PredictionGroup:
    """Example predictions of one benchmark."""

    benchmark: str
    shown: list[Prediction]


@dataclass(frozen=True)
class Variant:
    """A released variant; `share` is its size in percent of the largest."""

    name: str
    size: str
    share: float
    before: str
    peak: str
    speed: str


def score_table(run: ResolvedRun, artifacts: RunArtifacts) -> ScoreTable:
    """All benchmarks with at least one score, in the recipe's order."""
    models = list(dict.fromkeys(str(one.details["model"]) for one in artifacts.scores))
    released = artifacts.released()
    noisy = next((str(one.details["model"]) for one in artifacts.scores if one.details["noise"]), None)
    rows = []
    for benchmark in run.recipe.benchmarks:
        found = {model: score for model in models if (score := artifacts.score(model, benchmark))}
        if not found:
            continue
        leading = found.get(released or "") or next(iter(found.values()))
        noise = artifacts.score(noisy, benchmark, noise=True)
        rows.append(
            ScoreRow(
                name=_readable(benchmark),
                metric=_metric(leading),
                n=leading.details["n"],
                chance=f"{leading.details['chance']:.2f}",
                noise=_NONE if noise is None or not noise.details["n"] else f"{noise.details['value']:.2f}",
                noise_items=_noise_items(noise, leading),
                cells=[_cell(found.get(model)) for model in models],
                lenient=_NONE if leading.details["lenient"] is None else f"{leading.details['lenient']:.2f}",
                unparsed=f"{leading.details['unparsed'] / max(leading.details['n'], 1):.0%}",
            )
        )
    return ScoreTable(models, noisy or _NONE, released or _NONE, rows)


def verdict(run: ResolvedRun, artifacts: RunArtifacts) -> Verdict:
    """Decide from the scores whether the model learned to see.

    A score is clearly above chance if its whole interval is, and blind if it is at most 0.05 above chance on noise.
    Benchmarks without images say nothing about seeing and are listed separately.
    """
    released = artifacts.released()
    every = {b: found for b in run.recipe.benchmarks if (found := artifacts.score(released, b))}
    if not every:
        return Verdict(False, ["No model of this run was evaluated."])
    noises = {b: found for b in every if (found := artifacts.score(released, b, noise=True))}
    in_words = [b for b, noise in noises.items() if not noise.details["n"]]
    scores = {b: score for b, score in every.items() if b not in in_words}
    above = [b for b, score in scores.items() if score.details["low"] > score.details["chance"]]
    noise = {b: noises[b] for b in above if b in noises}
    blind = [b for b, score in noise.items() if score.details["value"] <= score.details["chance"] + _NEAR_CHANCE]
    learned = 0 < len(scores) <= 2 * len(above) and len(blind) == len(noise)
    counted = f"{_some(len(above), len(scores))} of {len(scores)} held-out benchmarks are clearly above chance"
    lines = [f"{'The model sees' if learned else 'Not proven to see'}: {counted if scores else 'none has images'}."]
    if above:
        lines.append(f"{'; '.join(_describe(b, scores[b]) for b in above)}.")
    if noise:
        lines.append(f"With noise in place of images, {_some(len(blind), len(noise))} of those fall back to chance.")
    if in_words:
        named = "; ".join(_describe(b, every[b]) for b in in_words)
        lines.append(f"Text-only benchmarks, which say nothing about seeing: {named}.")
    if quantized := _quantized_loss(artifacts, every):
        lines.append(quantized)
    return Verdict(learned, lines)


def predictions(store: Store, artifacts: RunArtifacts) -> list[PredictionGroup]:
    """A few predictions of the released model per benchmark, right and wrong ones alternating, with their images."""
    groups = []
    released = artifacts.released()
    for score in artifacts.scores:
        if score.details["model"] == released and not score.details["noise"]:
            with (store.folder(score.artifact) / ANSWERS).open(encoding="utf-8") as stream:
                records = [json.loads(line) for line in stream]
            images = _images(store, score)
            shown = [_prediction(record, images) for record in _alternating(records)]
            groups.append(PredictionGroup(_readable(str(score.details["benchmark"])), shown))
    return groups


def variants(artifacts: RunArtifacts) -> list[Variant]:
    """The release in full precision and quantized."""
    made = [("whole", artifacts.export), (QUANTIZED, artifacts.quantized)]
    found = [(name, manifest.details) for name, manifest in made if manifest and "weight_bytes" in manifest.details]
    largest = max((details["weight_bytes"] for _, details in found), default=1)
    return [_variant(name, details, largest) for name, details in found]


def _variant(name: str, details: dict[str, Any], largest: int) -> Variant:
    cost = details.get("cost", {})
    return Variant(
        name=name,
        size=megabytes(details["weight_bytes"]),
        share=round(100 * details["weight_bytes"] / largest, 1),
        before=megabytes(cost.get("before_loading_bytes")),
        peak=megabytes(cost.get("peak_bytes")),
        speed=f"{cost['tokens_per_second']:,.0f}" if "tokens_per_second" in cost else _NONE,
    )


def megabytes(count: int | None) -> str:
    """Format a size in megabytes, or in kilobytes below 0.1 MB (decimal)."""
    if count is None:
        return _NONE
    if count < 100e3:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.0f} MB" if count >= 20e6 else f"{count / 1e6:,.1f} MB"


def _cell(score: Manifest | None) -> Cell:
    if score is None:
        return Cell(_NONE, "", 0)
    value, low, high, chance = (float(score.details[name]) for name in ("value", "low", "high", "chance"))
    above = max(value - chance, 0.0) / max(1 - chance, 1e-9)
    return Cell(f"{value:.2f}", f"{low:.2f} – {high:.2f}", round(_HEAT_PERCENT * above))


def _noise_items(noise: Manifest | None, leading: Manifest) -> str:
    if noise is None or noise.details["n"] == leading.details["n"]:
        return ""
    n = noise.details["n"]
    return f"{n:,} with images" if n else "text only"


def _metric(score: Manifest) -> str:
    extra = score.details.get("extra", {})
    shown = load_metric(score.details["metric"]).shown(extra)
    return f"{shown}, wordings at most {extra['spread']:.2f} apart" if "spread" in extra else shown


def _describe(benchmark: str, score: Manifest) -> str:
    return f"{_readable(benchmark)} {score.details['value']:.2f} (chance {score.details['chance']:.2f})"


def _quantized_loss(artifacts: RunArtifacts, scores: dict[str, Manifest]) -> str | None:
    small = {b: found for b in scores if (found := artifacts.score(QUANTIZED, b))}
    whole, quantized = artifacts.export, artifacts.quantized
    if not small or whole is None or quantized is None or artifacts.released() != EXPORT:
        return None
    change = min(small[b].details["value"] - scores[b].details["value"] for b in small)
    sizes = f"{megabytes(whole.details['weight_bytes'])} to {megabytes(quantized.details['weight_bytes'])}"
    lost = f"loses at most {-change:.2f} on any benchmark" if change < 0 else "loses nothing on any benchmark"
    return f"As int8 it shrinks from {sizes} and {lost}."


def _some(part: int, whole: int) -> str:
    return {0: "none", whole: "all"}.get(part, str(part))


def _readable(benchmark: str) -> str:
    return benchmark.replace("_", " ")


def _alternating(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    right = [record for record in records if record["correct"] >= 0.5]
    wrong = [record for record in records if record["correct"] < 0.5]
    pairs: Iterable[dict[str, Any] | None] = chain.from_iterable(zip_longest(right, wrong))
    return [record for record in pairs if record is not None][:_PREDICTIONS]


def _prediction(record: dict[str, Any], images: Path | None) -> Prediction:
    box = read_box(record["answer"])
    truth = tuple(record["box"]) if record["box"] and box_is_asked(record) else None
    if record["image"] is None or images is None:
        shown = Picture(None, absent="no image available")
    else:
        shown = picture(images / record["image"], truth, box)
    question = record["question"] or "describe the image"
    return Prediction(
        shown, shortened(question), shortened(record["answer"]), shortened(record["truth"]), record["correct"] >= 0.5
    )


def box_is_asked(record: dict[str, Any]) -> bool:
    """Whether the ground truth is a box rather than a phrase about one."""
    return read_box(record["truth"]) is not None


def _images(store: Store, score: Manifest) -> Path | None:
    try:
        return local_path(score.definition["source"]["images"], functools.partial(corpus_folder, store))
    except DataError:
        return None
