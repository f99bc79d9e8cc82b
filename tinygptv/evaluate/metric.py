"""What a metric is: how one answer is marked, what all answers score together, and how that is shown. Pure.

Every metric is one file in `evaluate/metrics/`, which benchmarks name and nothing else lists.
"""

import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tinygptv.data.prompting.boxes import Box, box_text
from tinygptv.definitions.benchmark import METRICS
from tinygptv.definitions.kinds import load_kind

_RESAMPLES = 200
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
class Total:
    """What all answers score together, 0..1, with its 95 % interval; `extra` holds the metric's own figures."""

    value: float
    low: float
    high: float
    extra: dict[str, float] = field(default_factory=dict)


class Metric(ABC):
    """A metric whose score is the mean of its strict marks; others override `total` and `constant`."""

    title: ClassVar[str]
    """Its name in reports."""
    has_lenient: ClassVar[bool] = True
    """Whether the reference's scripts have a lenient rule for it."""
    advice: ClassVar[Mapping[str, str]] = {}
    """What to do about items that are left out, by the reason that `unscorable` gives."""

    @abstractmethod
    def mark(self, answer: str, truth: Truth) -> Mark:
        """How one answer does."""

    def unscorable(self, truth: Truth) -> str | None:
        """Why no answer to an item could be marked, in one word that is counted; None if it can be."""
        return None

    def total(self, answers: Sequence[str], truths: Sequence[Truth], marks: Sequence[Mark]) -> Total:
        """The score of all answers, whose marks are given."""
        strict = [mark.strict for mark in marks]
        return Total(mean(strict), *interval(strict))

    def constant(self, answer: str, truths: Sequence[Truth]) -> float:
        """The score of one answer given to all items, for the chance level."""
        return mean([self.mark(answer, truth).strict for truth in truths])

    def best_constant(self, truths: Sequence[Truth]) -> float:
        """The best score of one answer given to all items; tries the 24 commonest true answers."""
        common = Counter(_as_answer(truth) for truth in truths).most_common(_CONSTANT_CANDIDATES)
        return max(self.constant(answer, truths) for answer, _ in common)

    def shown(self, extra: Mapping[str, float]) -> str:
        """The metric beside its score in a report; `extra` is that of the score."""
        return self.title


def load_metric(name: str) -> Metric:
    """The metric in `evaluate/metrics/<name>.py`. Raises DefinitionError if there is none."""
    metric: Metric = load_kind(METRICS, name).METRIC
    return metric


def mean(values: Sequence[float]) -> float:
    """0 of no values."""
    return sum(values) / len(values) if values else 0.0


def interval(marks: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of marks: Wilson's for right-or-wrong, percentiles of 200 resamples for partial marks."""
    if all(value in (0.0, 1.0) for value in marks):
        return wilson(sum(marks), len(marks))
    return bootstrap(lambda rows: mean([marks[row] for row in rows]), len(marks))


def wilson(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of `right` out of `n`; (0, 1) when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, _Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap(statistic: Callable[[list[int]], float], n: int) -> tuple[float, float]:
    """2.5 and 97.5 percentiles over resamples drawn with a fixed seed, so that a score is reproducible."""
    if n == 0:
        return 0.0, 1.0
    rng = random.Random(0)
    values = sorted(statistic(rng.choices(range(n), k=n)) for _ in range(_RESAMPLES))
    edge = round(0.025 * _RESAMPLES)
    return values[edge], values[-1 - edge]


def _as_answer(truth: Truth) -> str:
    if truth.box is None:
        return Counter(truth.answers).most_common(1)[0][0]
    return box_text(truth.box)
