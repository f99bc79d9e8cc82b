"""Answers → marks → one score: strict rules by default, the reference's lenient ones beside them. Pure.

A benchmark is reported with both numbers because they are different claims: the strict one compares with the world,
the lenient one with the table that TinyGPT-V published (its scripts search for the label anywhere in the output).
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tinygptv.data.prompting.boxes import Box, box_text, read_box
from tinygptv.definitions.benchmark import Metric
from tinygptv.evaluate import captions
from tinygptv.evaluate.boxes import in_pixels, iou
from tinygptv.evaluate.texts import comparable
from tinygptv.evaluate.vqa import LEAST_ANSWERS, vqa_accuracy
from tinygptv.shapes.objects import named_objects, object_f1

SCORING_VERSION = 2
"""Part of what names scores: raise it when the same answers get other marks."""

IOU_THRESHOLD = 0.5
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_RESAMPLES = 200
_LEAST_GROUP = 20
_CONSTANT_CANDIDATES = 24
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Truth:
    """What is right about one item. `box` is (x0, y0, x1, y1) in fractions of the image, `image_size` (width, height)
    in px; `group` gathers items whose answers come from one set, for the chance level."""

    answers: tuple[str, ...]
    box: Box | None = None
    image_size: tuple[int, int] = (1, 1)
    group: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """One answer's marks, 0..1. `lenient` is None where the reference has no rule; `quality` is the IoU of a box."""

    strict: float
    lenient: float | None
    parsed: bool = True
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A benchmark's score, 0..1, with its 95 % interval; `unparsed` counts answers in no recognised form."""

    value: float
    low: float
    high: float
    lenient: float | None
    n: int
    unparsed: int
    extra: dict[str, float] = field(default_factory=dict)


def unscorable(metric: Metric, truth: Truth) -> str | None:
    """Why no answer to an item could be marked under a metric, in one word that is counted; None if it can be."""
    if metric == "vqa_accuracy" and len(truth.answers) < LEAST_ANSWERS:
        return "too_few_answers"
    if metric == "referring_iou" and truth.box is None:
        return "no_box"
    return None


def mark(metric: Metric, answer: str, truth: Truth) -> Mark:
    """How one answer does under a metric. A caption's mark is its own sentence BLEU, for sorting only."""
    return _MARKERS[metric](answer, truth)


def score(metric: Metric, answers: Sequence[str], truths: Sequence[Truth]) -> Score:
    """The score of all answers: the mean mark, or for captions the BLEU of the whole corpus. `extra` holds the mean IoU
    of boxes, and the order of a BLEU whose captions are all too short for BLEU-4."""
    marks = [mark(metric, answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    extra: dict[str, float] = {}
    if metric == "caption_bleu":
        counts = [captions.count(answer, truth.answers) for answer, truth in zip(answers, truths, strict=True)]
        value = captions.bleu(counts)
        low, high = _bootstrap(lambda rows: captions.bleu(counts[row] for row in rows), len(counts))
        if 0 < (order := captions.order(counts)) < captions.ORDER:
            extra["ngram_order"] = order
    else:
        value = _mean([one.strict for one in marks])
        low, high = interval([one.strict for one in marks])
    lenient = [one.lenient for one in marks if one.lenient is not None]
    if qualities := [one.quality for one in marks if one.quality is not None]:
        extra["mean_iou"] = _mean(qualities)
    return Score(
        value=value,
        low=low,
        high=high,
        lenient=_mean(lenient) if lenient else None,
        n=len(marks),
        unparsed=sum(not one.parsed for one in marks),
        extra=extra,
    )


def by_group(metric: Metric, answers: Sequence[str], truths: Sequence[Truth]) -> dict[str, float]:
    """The score of each group's items, in the order in which groups come."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, truth in enumerate(truths):
        groups[truth.group].append(row)
    return {
        group: round(score(metric, [answers[row] for row in rows], [truths[row] for row in rows]).value, 4)
        for group, rows in groups.items()
    }


def spread(scores: Mapping[str, float]) -> float:
    """How far apart the scores of groups are at most, of groups `kind/variant` of the same kind."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for group, value in scores.items():
        kinds[group.partition("/")[0]].append(value)
    return round(max(max(values) - min(values) for values in kinds.values()), 4)


def chance(metric: Metric, truths: Sequence[Truth]) -> float:
    """The score of someone who sees the questions but no image: each group's best constant answer.

    Groups of fewer than 20 items are pooled, for in a group of one the best constant answer is always right.
    """
    groups: dict[str, list[Truth]] = defaultdict(list)
    for truth in truths:
        groups[truth.group].append(truth)
    pools = [group for group in groups.values() if len(group) >= _LEAST_GROUP]
    if rest := [truth for group in groups.values() if len(group) < _LEAST_GROUP for truth in group]:
        pools.append(rest)
    return sum(_best_constant(metric, pool) * len(pool) for pool in pools) / max(len(truths), 1)


def interval(marks: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of marks: Wilson's for right-or-wrong, percentiles of 200 resamples for partial marks."""
    if all(value in (0.0, 1.0) for value in marks):
        return wilson(sum(marks), len(marks))
    return _bootstrap(lambda rows: _mean([marks[row] for row in rows]), len(marks))


def wilson(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of `right` out of `n`; (0, 1) when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, _Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _mark_vqa(answer: str, truth: Truth) -> Mark:
    said = comparable(answer).strip()
    # The reference's VizWiz rule: an answer inside a human's counts, so an empty one is always right.
    alike = sum(said in human or human in said for human in map(comparable, truth.answers))
    return Mark(vqa_accuracy(answer, truth.answers), min(alike / 3, 1.0), bool(said))


def _mark_exact(answer: str, truth: Truth) -> Mark:
    said, accepted = comparable(answer).strip(), [comparable(right) for right in truth.answers]
    plain = said.removesuffix(".")
    return Mark(
        float(any(plain == right.strip().removesuffix(".") for right in accepted)),
        float(any(right in said for right in accepted)),
        bool(said),
    )


def _mark_true_false(answer: str, truth: Truth) -> Mark:
    said, right = comparable(answer), comparable(truth.answers[0])
    first = _FIRST_WORD.search(said)
    word = first.group() if first else ""
    return Mark(float(word == right), float(right in said), word in ("true", "false"))


def _mark_box(answer: str, truth: Truth) -> Mark:
    if truth.box is None:
        raise ValueError("a referring item needs a box")
    box = read_box(answer)
    if box is None:
        return Mark(0.0, 0.0, False, 0.0)
    quality = iou(box, truth.box)
    on_pixels = iou(in_pixels(box, truth.image_size), in_pixels(truth.box, truth.image_size), one=1.0)
    return Mark(float(quality >= IOU_THRESHOLD), float(on_pixels > IOU_THRESHOLD), True, quality)


def _mark_caption(answer: str, truth: Truth) -> Mark:
    return Mark(captions.bleu([captions.count(answer, truth.answers)]), None, bool(answer.strip()))


def _mark_objects(answer: str, truth: Truth) -> Mark:
    return Mark(object_f1(answer, truth.answers), None, bool(named_objects(answer)))


_MARKERS: dict[Metric, Callable[[str, Truth], Mark]] = {
    "vqa_accuracy": _mark_vqa,
    "exact_match": _mark_exact,
    "true_false_accuracy": _mark_true_false,
    "referring_iou": _mark_box,
    "caption_bleu": _mark_caption,
    "object_f1": _mark_objects,
}


def _best_constant(metric: Metric, truths: Sequence[Truth]) -> float:
    """The best score of one answer given to all; tries the 24 commonest true answers."""
    said = Counter(_as_answer(truth) for truth in truths)
    candidates = [answer for answer, _ in said.most_common(_CONSTANT_CANDIDATES)]
    if metric == "caption_bleu":
        return max(captions.bleu(captions.count(answer, truth.answers) for truth in truths) for answer in candidates)
    return max(_mean([mark(metric, answer, truth).strict for truth in truths]) for answer in candidates)


def _as_answer(truth: Truth) -> str:
    if truth.box is None:
        return Counter(truth.answers).most_common(1)[0][0]
    return box_text(truth.box)


def _bootstrap(statistic: Callable[[list[int]], float], n: int) -> tuple[float, float]:
    """2.5 and 97.5 percentiles over resamples drawn with a fixed seed, so that a score is reproducible."""
    if n == 0:
        return 0.0, 1.0
    rng = random.Random(0)
    values = sorted(statistic(rng.choices(range(n), k=n)) for _ in range(_RESAMPLES))
    edge = round(0.025 * _RESAMPLES)
    return values[edge], values[-1 - edge]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
