"""Outcomes → figures, checked against goals. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.measuring import Outcome
from benchmarks.gpu.orders import Answer, Device, Order, Planned, Step

GIB = 2**30
MIN_SPEEDUP, MIN_UTILISATION, UTILISATION_STAGE, PLAN_TOLERANCE = 2.0, 0.45, "stage2", 0.1
LOSS_TOLERANCE = 0.05
"""Relative difference allowed between the first losses: dropout masks and 16-bit rounding differ."""


@dataclass(frozen=True)
class Figure:
    """Our value and the peer's (None: not measured), and whether the goal is met (None: unknown, or no goal)."""

    name: str
    ours: float | None
    peer: float | None
    unit: str
    goal: str
    met: bool | None
    details: dict[str, Any] = field(default_factory=dict)


def judge(order: Order, ours: Outcome, peer: Outcome, device: Device) -> list[Figure]:
    """Figures of a stage: speed, utilisation and memory."""
    facts = {
        "device": device.name,
        "torch": device.torch,
        "limit_gib": order.job.hardware.memory_gib,
        "precision": order.job.hardware.precision,
        "told": ours.message,
        "peer_told": peer.message,
    }
    return [
        _speed(order, ours, peer, facts),
        _utilisation(order, ours, peer, device, facts),
        _memory(order, ours, peer, facts),
    ]


def _speed(order: Order, ours: Outcome, peer: Outcome, facts: dict[str, Any]) -> Figure:
    mine, theirs = (_per_second(one.answer, "samples") for one in (ours, peer))
    planned = ours.answer.planned if ours.answer else None
    details = facts | {
        "global_batch_size": order.job.stage.global_batch_size,
        "gradient_checkpointing": planned.gradient_checkpointing if planned else None,
    }
    for prefix, one in (("", ours), ("peer_", peer)):
        taken = one.answer.taken if one.answer else []
        longest = one.answer.longest if one.answer else None
        details |= {
            f"{prefix}micro_batch_size": one.micro_batch_size if taken else None,
            f"{prefix}did_not_fit": list(one.did_not_fit),
            f"{prefix}step_seconds": _rounded(statistics.median(step.seconds for step in taken)) if taken else None,
            f"{prefix}tokens_per_second": _rounded(_per_second(one.answer, "tokens")),
            f"{prefix}longest_step_seconds": _rounded(longest.seconds) if longest else None,
            f"{prefix}first_loss": _rounded(one.answer.first_loss) if one.answer else None,
        }
    met = None
    if ours.answer and peer.answer and mine is not None and theirs is not None:
        details["same_loss"] = _same(ours.answer.first_loss, peer.answer.first_loss)
        # Times are only comparable if both sides compute the same.
        met = mine >= MIN_SPEEDUP * theirs if details["same_loss"] else None
    return Figure(
        f"gpu {order.job.stage.stage}: speed", mine, theirs, "samples/s", f"ratio >= {MIN_SPEEDUP:g}", met, details
    )


def _utilisation(order: Order, ours: Outcome, peer: Outcome, device: Device, facts: dict[str, Any]) -> Figure:
    """Model-FLOP utilisation: padding and recomputation do not count."""
    planned, tflops = ours.answer.planned if ours.answer else None, order.job.hardware.tflops
    mine, theirs = (_share(one.answer.taken if one.answer else [], planned, tflops) for one in (ours, peer))
    longest = [ours.answer.longest] if ours.answer and ours.answer.longest else []
    details = facts | {
        "tflops": tflops,
        "tflops_from": "the data sheet" if device.tflops else "a large product, measured",
        "measured_tflops": _rounded(device.measured_tflops),
        "longest": _rounded(_share(longest, planned, tflops)),
    }
    stage = order.job.stage.stage
    wanted = stage == UTILISATION_STAGE
    goal, met = (
        f">= {MIN_UTILISATION}" if wanted else "none",
        None if mine is None or not wanted else mine >= MIN_UTILISATION,
    )
    return Figure(f"gpu {stage}: model-FLOP utilisation", mine, theirs, "share", goal, met, details)


def _memory(order: Order, ours: Outcome, peer: Outcome, facts: dict[str, Any]) -> Figure:
    """Peak memory with the longest sequences."""
    mine, theirs = (one.answer.held.total / GIB if one.answer and one.answer.longest else None for one in (ours, peer))
    limit_gib, planned = order.job.hardware.memory_gib, ours.answer.planned if ours.answer else None
    details, met = facts | {"longest_fit": mine is not None, "peer_longest_fit": theirs is not None}, None
    if ours.did_not_fit or (ours.answer and mine is None):
        met = False
    elif mine is not None and planned is not None and ours.answer is not None:
        held = ours.answer.held
        ratio = planned.total / held.total
        details |= {
            "planned": _rounded(planned.total / GIB),
            "planned_by_measured": _rounded(ratio),
            "tensors": _rounded(held.allocated / GIB),
            "planned_by_measured_tensors": _rounded((planned.total - planned.runtime) / held.allocated),
            "allocator": _rounded(held.reserved / GIB),
            "beside": _rounded(held.beside / GIB),
        }
        met = abs(ratio - 1) <= PLAN_TOLERANCE and (limit_gib is None or mine <= limit_gib)
    within = f"<= {limit_gib:g} GiB, " if limit_gib is not None else ""
    goal = f"{within}plan within {PLAN_TOLERANCE:.0%}"
    return Figure(f"gpu {order.job.stage.stage}: peak memory", mine, theirs, "GiB", goal, met, details)


def table(figures: Sequence[Figure]) -> list[str]:
    """Format one line per figure."""
    verdicts = {True: "met", False: "missed", None: ""}
    lines = [f"{'':<46}{'ours':>10}{'reference':>12}{'ratio':>8}  {'goal':<30}"]
    for one in figures:
        ratio = one.ours / one.peer if one.ours is not None and one.peer is not None else None
        cells = f"{_cell(one.ours):>10}{_cell(one.peer):>12}{_cell(ratio):>8}  "
        lines.append(f"{f'{one.name}, {one.unit}':<46}{cells}{one.goal:<30}{verdicts[one.met]}".rstrip())
        messages = {"ours": one.details["told"], "reference": one.details["peer_told"]}
        lines += [f"    {side}: {why}" for side, why in messages.items() if why and one.unit == "samples/s"]
    return lines


def _per_second(answer: Answer | None, what: str) -> float | None:
    if answer is None:
        return None
    return sum(getattr(step, what) for step in answer.taken) / sum(step.seconds for step in answer.taken)


def _share(taken: Sequence[Step], planned: Planned | None, tflops: float | None) -> float | None:
    if not taken or planned is None or tflops is None:
        return None
    flops = sum(planned.flops_per_sample * step.samples + planned.flops_per_token * step.tokens for step in taken)
    return flops / (tflops * 1e12 * sum(step.seconds for step in taken))


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= LOSS_TOLERANCE * other


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
