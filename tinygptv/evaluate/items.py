"""Select a benchmark's items: which are asked, their ground truth, and how many are dropped for which reason."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

from tinygptv.data.annotations import Annotations
from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.frames import read_size
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.reasons import PROMPT_TOO_LONG
from tinygptv.errors import DataError, PromptTooLongError
from tinygptv.evaluate.metric import Truth, load_metric
from tinygptv.sample import Sample

logger = logging.getLogger(__name__)

Item = tuple[Sample, Truth]


def choose_items(benchmark: Benchmark, items: Annotations, noise: bool) -> tuple[list[Item], Counter[str]]:
    """The items that can be scored, and drop counts by reason. With `noise`, items without images are dropped too."""
    metric = load_metric(benchmark.metric)
    samples = chosen(items.samples, benchmark.max_items)
    drops = items.drops + Counter(over_max_items=len(items.samples) - len(samples))
    kept = []
    for sample in samples:
        if noise and not sample.images:
            drops["no_picture"] += 1
            continue
        try:
            truth = truth_of(sample)
        except DataError as error:
            logger.warning("item dropped: %s", error)
            drops["unreadable_image"] += 1
            continue
        if reason := metric.unscorable(truth):
            drops[reason] += 1
        else:
            kept.append((sample, truth))
    return kept, drops


def answered_items(
    name: str, benchmark: Benchmark, asked: list[Item], answers: list[str | DataError], drops: Counter[str]
) -> tuple[list[Item], list[str]]:
    """The answered items and their answers; the others are added to `drops`. Raises DataError if there are none."""
    kept, texts = [], []
    for item, answer in zip(asked, answers, strict=True):
        if isinstance(answer, DataError):
            logger.warning("item dropped: %s", answer)
            drops[PROMPT_TOO_LONG if isinstance(answer, PromptTooLongError) else "unusable_item"] += 1
        else:
            kept.append(item)
            texts.append(answer)
    if not kept:
        raise DataError(f"benchmark '{name}': no item could be asked ({summary(benchmark, drops)}): {answers[0]}")
    return kept, texts


def chosen(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples: those with the lowest key hashes, independent of the file's order."""
    if limit is None or len(samples) <= limit:
        return samples
    return sorted(samples, key=lambda sample: hashlib.sha256(sample.key.encode()).digest())[:limit]


def truth_of(sample: Sample) -> Truth:
    """The ground truth of a sample. Without accepted answers, the answer of its turn is the only one.

    Raises DataError if the image size is needed and cannot be read.
    """
    size, box = (1, 1), sample.boxes[0] if sample.boxes else None
    if box is not None and sample.images:
        path = sample.images[0].path
        try:
            size = read_size(Path(path))
        except (OSError, PictureError) as error:
            raise DataError(f"{path}, {sample.key}: its size cannot be read ({error})") from error
    answers = sample.answers or (sample.turns[0].answer,)
    return Truth(answers, box, size, sample.group or sample.turns[0].instruction)


def summary(benchmark: Benchmark, drops: Counter[str]) -> str:
    """Drop reasons and counts as text, with the metric's advice about them."""
    advice = load_metric(benchmark.metric).advice
    reasons = ", ".join(f"{reason} {count}" for reason, count in drops.items() if count)
    return "; ".join([reasons, *(advice[reason] for reason in advice if drops[reason])])
