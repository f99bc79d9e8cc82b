"""Answers → marks → one score: strict rules by default, the reference's lenient ones beside them. Pure.

A benchmark is reported with both numbers because they are different claims: the strict one compares with the world,
the lenient one with the table that TinyGPT-V published (its scripts search for the label anywhere in the output).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinygptv.evaluate.metric import Mark, Truth, load_metric, mean

SCORING_VERSION = 2
"""Part of what names scores: raise it when the same answers get other marks."""

_MIN_GROUP = 20


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


def mark(metric: str, answer: str, truth: Truth) -> Mark:
    """How one answer does under a metric."""
    return load_metric(metric).mark(answer, truth)


def score(metric: str, answers: Sequence[str], truths: Sequence[Truth]) -> Score:
    """The score of all answers under a metric."""
    rules = load_metric(metric)
    marks = [rules.mark(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    total = rules.total(answers, truths, marks)
    lenient = [one.lenient for one in marks if one.lenient is not None]
    return Score(
        value=total.value,
        low=total.low,
        high=total.high,
        lenient=mean(lenient) if lenient else None,
        n=len(marks),
        unparsed=sum(not one.parsed for one in marks),
        extra=total.extra,
    )


def by_group(metric: str, answers: Sequence[str], truths: Sequence[Truth]) -> dict[str, float]:
    """The score of each group's items, in the order in which groups first appear."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, truth in enumerate(truths):
        groups[truth.group].append(row)
    return {
        group: round(score(metric, [answers[row] for row in rows], [truths[row] for row in rows]).value, 4)
        for group, rows in groups.items()
    }


def spread(scores: Mapping[str, float]) -> float:
    """The largest difference between scores of groups `kind/variant` of the same kind."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for group, value in scores.items():
        kinds[group.partition("/")[0]].append(value)
    return round(max(max(values) - min(values) for values in kinds.values()), 4)


def chance(metric: str, truths: Sequence[Truth]) -> float:
    """The score of someone who sees the questions but no image: each group's best constant answer.

    Groups of fewer than 20 items are pooled, because in a group of one the best constant answer is always right.
    """
    rules = load_metric(metric)
    groups: dict[str, list[Truth]] = defaultdict(list)
    for truth in truths:
        groups[truth.group].append(truth)
    pools = [group for group in groups.values() if len(group) >= _MIN_GROUP]
    if rest := [truth for group in groups.values() if len(group) < _MIN_GROUP for truth in group]:
        pools.append(rest)
    return sum(rules.best_constant(pool) * len(pool) for pool in pools) / max(len(truths), 1)
