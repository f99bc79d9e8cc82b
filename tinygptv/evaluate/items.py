"""A benchmark's items: which are asked, what is right about them, and why others are left out, counted by reason."""

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
    """The items that can be scored, and how many are left out for what reason; with `noise`, those without pictures
    are."""
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
            logger.warning("not asked: %s", error)
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
    """The items that were answered, and their answers; the others are counted. Raises DataError if none was."""
    kept, said = [], []
    for item, answer in zip(asked, answers, strict=True):
        if isinstance(answer, DataError):
            logger.warning("not asked: %s", answer)
            drops[PROMPT_TOO_LONG if isinstance(answer, PromptTooLongError) else "unusable_item"] += 1
        else:
            kept.append(item)
            said.append(answer)
    if not kept:
        raise DataError(f"benchmark '{name}': no item can be asked ({summary(benchmark, drops)}): {answers[0]}")
    return kept, said


def chosen(samples: list[Sample], most: int | None) -> list[Sample]:
    """At most `most` samples: those whose keys hash lowest, which does not depend on the order of the file."""
    if most is None or len(samples) <= most:
        return samples
    return sorted(samples, key=lambda sample: hashlib.sha256(sample.key.encode()).digest())[:most]


def truth_of(sample: Sample) -> Truth:
    """What the metrics need to know of a sample; without accepted answers its own turn is the only one. Raises
    DataError if its picture's size is needed and cannot be read."""
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
    """Reasons and counts, and what the metric advises about them, for people."""
    advice = load_metric(benchmark.metric).advice
    reasons = ", ".join(f"{reason} {count}" for reason, count in drops.items() if count)
    return "; ".join([reasons, *(advice[reason] for reason in advice if drops[reason])])
