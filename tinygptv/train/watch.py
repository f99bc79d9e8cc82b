"""Detects trouble in a training: each step is judged, and the stage's policy says whether to stop or to roll back.

Every rank judges the same numbers, which are sums over all ranks, so all of them reach the same decision. A roll-back
skips batches: those around the trouble are not drawn again, and the ones behind them move up. The skipped batches are
recorded in the events and are the only state, so after a crash the same batches are skipped.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tinygptv.definitions.recipe import JUDGED_AFTER, Watch
from tinygptv.train.events import Name

MEDIAN_OF = 50
"""How many steps the median covers that a spike is compared with."""


@dataclass(frozen=True)
class Trouble:
    """What went wrong in a step; the message ends with what to do."""

    event: Name
    message: str


class Watcher:
    """Judges step after step by the policy `watch`; `recent` are (loss, gradient norm) of the steps before."""

    def __init__(self, watch: Watch, recent: Iterable[tuple[float, float | None]] = ()) -> None:
        self._watch = watch
        self.restart(recent)

    def restart(self, recent: Iterable[tuple[float, float | None]]) -> None:
        """Continue as if `recent` had been the last steps."""
        self._losses: deque[float] = deque(maxlen=MEDIAN_OF)
        self._norms: deque[float] = deque(maxlen=MEDIAN_OF)
        for loss, norm in recent:
            self._remember(loss, norm)

    @property
    def recent_loss(self) -> float | None:
        """Mean loss of the last steps (nats); None before the first."""
        return statistics.fmean(self._losses) if self._losses else None

    def judge(self, loss: float, grad_norm: float | None, terms: int) -> Trouble | None:
        """The trouble with a step, by its loss, gradient norm and number of terms in the loss; None if it is fine.

        A step that is fine counts in the medians for the next ones.
        """
        trouble = self._trouble(loss, grad_norm, terms)
        if trouble is None:
            self._remember(loss, grad_norm)
        return trouble

    def _trouble(self, loss: float, norm: float | None, terms: int) -> Trouble | None:
        if not terms:
            return Trouble("dead_data", "no sample of the batch has anything to learn; look at these samples")
        if not math.isfinite(loss):
            return Trouble(
                "loss_not_finite", f"the loss is {loss}; lower peak_lr, set clip_norm, or look at these samples"
            )
        if norm is not None and not math.isfinite(norm):
            return Trouble(
                "gradients_exploded", f"the gradient norm is {norm}; lower peak_lr, or look at these samples"
            )
        if spike := _above(loss, self._losses, self._watch.loss_spike):
            return Trouble("loss_spike", f"the loss is {spike}; lower peak_lr, set clip_norm, or look at these samples")
        if norm is not None and (spike := _above(norm, self._norms, self._watch.gradient_explosion)):
            return Trouble("gradients_exploded", f"the gradient norm is {spike}; lower peak_lr, or set clip_norm")
        return None

    def _remember(self, loss: float, norm: float | None) -> None:
        self._losses.append(loss)
        if norm is not None:
            self._norms.append(norm)


def in_words(watch: Watch, precision: str) -> str:
    """One line for the log: what is watched in every step and what is not."""
    optional = {
        f"loss spikes{_times(watch.loss_spike)}": watch.loss_spike,
        f"gradient norms{_times(watch.gradient_explosion)}": watch.gradient_explosion,
    }
    skipped = ", except in steps that fp16 skips" if precision == "fp16" else ""
    watched = ["NaN or Inf in the loss", f"NaN or Inf in the gradients{skipped}", "steps without labels"]
    watched += [name for name, factor in optional.items() if factor]
    unwatched = [name for name, factor in optional.items() if not factor]
    not_watched = f"; not: {', '.join(unwatched)}" if unwatched else ""
    return f"watching {', '.join(watched)}{not_watched}; then: {watch.then}"


def _times(factor: float | None) -> str:
    return f" above {factor:g} times the median, from step {JUDGED_AFTER + 1} on" if factor else ""


def position(step: int, skipped: Iterable[int]) -> int:
    """Which batch of the mixture's order a step draws, both counted from 0, when those in `skipped` are left out."""
    for batch in sorted(skipped):
        if batch <= step:
            step += 1
    return step


def skips(events: Sequence[dict[str, Any]]) -> list[int]:
    """The batches that earlier roll-backs skipped."""
    return sorted({batch for event in events if event["event"] == "rolled_back" for batch in event["skipped"]})


def steps_to_skip(step: int, checkpoint: int, skipped: Sequence[int], width: int) -> list[int]:
    """The batches to skip after trouble in `step`: its own and up to `width` - 1 before it, back to the checkpoint."""
    steps = range(max(checkpoint, step - width + 1), step + 1)
    return [position(each, skipped) for each in steps]


def _above(value: float, before: Sequence[float], factor: float | None) -> str | None:
    if factor is None or len(before) < JUDGED_AFTER:
        return None
    median = statistics.median(before)
    if value <= factor * median:
        return None
    return f"{value:.4g}, {value / median:.1f} times the {median:.4g} before" if median else f"{value:.4g}, after 0"
