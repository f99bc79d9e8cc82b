"""Which step drops which row, and the funnel: what each drops first, alone, and what only it drops.

Memory holds one byte per row and what the comparisons need; DuckDB spills the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygptv.data.balancing import Balanced
from tinygptv.data.decontamination import Contaminated
from tinygptv.data.duplicates import Comparison, Fixed, Mask, compare
from tinygptv.data.rows import Positions, Rows
from tinygptv.data.semantic import SemanticCopies
from tinygptv.definitions.filters import Balance, Decontaminate, Deduplicate, FilterChain, Placeholder, Rule, Step

KEPT = 0
"""As a verdict: the row stays. Any other verdict is the number of the step that drops it, from 1, rules first."""

_BATCH_ROWS = 20_000


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
    judgement = Judgement([*chain.rules, *chain.steps], np.zeros(rows.count, np.uint8))
    _apply_rules(rows, chain.rules, judgement)
    everyone = np.broadcast_to(np.True_, rows.total)  # takes no memory
    passed = np.ones(rows.total, np.bool_)
    np.equal(judgement.verdicts, KEPT, out=passed[: rows.count])
    left, copies, times = passed.copy(), [], np.zeros(rows.count, np.uint8)
    for number, step in enumerate(chain.steps, start=len(chain.rules) + 1):
        comparison = _prepare(rows, step, held_out)
        if isinstance(comparison, Contaminated):
            judgement.in_benchmarks = comparison.counts
        alone, full, first = (_judged(comparison, among, rows.count) for among in (everyone, passed, left))
        judgement.verdicts[first], left[first] = number, False
        times[full] += 1
        copies.append((step, len(first), len(alone), full))
    for step, first_count, alone_count, full in copies:
        judgement.enter(_kind(step), first_count, alone_count, int((times[full] == 1).sum()))
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
        failed = np.asarray(np.from_dlpack(batch["failed"]), np.uint64)  # to_numpy would import pandas
        lowest = failed & (~failed + np.uint64(1))
        first = np.where(failed == 0, KEPT, np.bitwise_count(lowest - np.uint64(1)) + 1)
        judgement.verdicts[np.from_dlpack(batch["position"])] = first
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


def _judged(comparison: Comparison, among: Mask, count: int) -> Positions:
    """What is dropped of the rows that are judged; those of earlier sidecars never are."""
    dropped = comparison.dropped(among)
    return dropped[dropped < count]
