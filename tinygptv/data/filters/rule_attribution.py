"""Which step drops which row, and the funnel: what each drops first, alone, and what only it drops.

Memory holds two bytes per row and what the comparisons need; the rest lies on disk.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygptv.data.columns.arrow import numbers
from tinygptv.data.filters.balancing import Balanced
from tinygptv.data.filters.decontamination import Contaminated
from tinygptv.data.filters.duplicates import Comparison, Fixed, Present, compare
from tinygptv.data.filters.rows import Positions, Rows
from tinygptv.data.filters.semantic import SemanticCopies
from tinygptv.definitions.filters import Balance, Decontaminate, Deduplicate, FilterChain, Placeholder, Rule, Step

KEPT = 0
"""As a verdict: the row stays. Any other verdict is the number of the step that drops it, from 1, rules first."""

_BATCH_ROWS = 20_000
_NOBODY, _SEVERAL = 0, 255

Mask = npt.NDArray[np.bool_]


@dataclass
class Judgement:
    """One verdict per row of the sidecar; the funnel, one entry per step; how rows were found in a benchmark."""

    steps: list[Rule | Step]
    verdicts: npt.NDArray[np.uint8]
    funnel: list[dict[str, Any]] = field(default_factory=list)
    in_benchmarks: dict[str, int] = field(default_factory=dict)

    def enter(self, kind: str, first: int, alone: int, only: int) -> None:
        """Add the next step's counts to the funnel."""
        step = self.steps[len(self.funnel)]
        counts = {"dropped_first": first, "dropped_alone": alone, "dropped_only": only}
        self.funnel.append({"rule": step.name, "why": step.why, "kind": kind, **counts})


def judge(rows: Rows, chain: FilterChain, held_out: Sequence[Path] = ()) -> Judgement:
    """Judge the rows; `held_out` are the folders of the benchmarks' fingerprints."""
    verdicts = np.full(rows.total, KEPT, np.uint8)
    judgement = Judgement([*chain.rules, *chain.steps], verdicts[: rows.count])
    _apply_rules(rows, chain.rules, judgement)
    only, counts = np.zeros(rows.count, np.uint8), []
    last_rule = len(chain.rules)

    def everyone(positions: Positions) -> Mask:
        return np.ones(len(positions), np.bool_)

    def passed(positions: Positions) -> Mask:
        return (verdicts[positions] == KEPT) | (verdicts[positions] > last_rule)

    def left(positions: Positions) -> Mask:
        return verdicts[positions] == KEPT

    for number, step in enumerate(chain.steps, start=last_rule + 1):
        comparison = _prepare(rows, step, held_out)
        if isinstance(comparison, Contaminated):
            judgement.in_benchmarks = comparison.counts
        alone = first = 0
        for positions in _judged(comparison, everyone, rows.count):
            alone += len(positions)
        for positions in _judged(comparison, passed, rows.count):
            only[positions] = np.where(only[positions] == _NOBODY, number, _SEVERAL)
        for positions in _judged(comparison, left, rows.count):
            first += len(positions)
            verdicts[positions] = number
        counts.append((number, step, first, alone))
    for number, step, first, alone in counts:
        judgement.enter(_kind(step), first, alone, int(np.count_nonzero(only == number)))
    return judgement


def failed_bits(rules: Sequence[Rule]) -> str:
    """SQL over a row: a number in which bit i is set where rule i does not hold."""
    bits = [f"(CASE WHEN ({rule.keep}) THEN 0 ELSE {1 << bit} END)" for bit, rule in enumerate(rules)]
    return f"({' + '.join(bits) or '0'})::UBIGINT"


def _apply_rules(rows: Rows, rules: Sequence[Rule], judgement: Judgement) -> None:
    """Few patterns of failing rules occur; counting them gives every number of the funnel."""
    patterns: Counter[int] = Counter()
    query = f"SELECT position, {failed_bits(rules)} AS failed FROM rows WHERE NOT earlier"
    for batch in rows.batches(query, _BATCH_ROWS):
        failed = numbers(batch, "failed").astype(np.uint64)
        lowest = failed & (~failed + np.uint64(1))
        first = np.where(failed == 0, KEPT, np.bitwise_count(lowest - np.uint64(1)) + 1)
        judgement.verdicts[numbers(batch, "position")] = first
        found, counts = np.unique(failed, return_counts=True)
        patterns.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    for number in range(len(rules)):
        bit = 1 << number
        firsts = sum(count for pattern, count in patterns.items() if pattern and pattern & -pattern == bit)
        alone = sum(count for pattern, count in patterns.items() if pattern & bit)
        judgement.enter("rule", firsts, alone, patterns[bit])


def _prepare(rows: Rows, step: Step, held_out: Sequence[Path]) -> Comparison:
    match step:
        case Decontaminate():
            return Contaminated(rows, step, held_out) if held_out else Fixed(np.empty(0, np.int64))
        case Balance():
            return Balanced(rows, step)
        case Deduplicate(at_least=float() as at_least) if rows.scores is not None:
            return SemanticCopies(rows, step, rows.scores, at_least)
        case _:
            return compare(rows, step)


def _kind(step: Step) -> str:
    match step:
        case Decontaminate():
            return "benchmark"
        case Placeholder():
            return "placeholder"
        case Balance():
            return "balance"
        case _:
            return "duplicates"


def _judged(comparison: Comparison, present: Present, count: int) -> Iterator[Positions]:
    """What is dropped of the rows that are judged; those of earlier sidecars never are."""
    for dropped in comparison.dropped(present):
        yield dropped[dropped < count]
