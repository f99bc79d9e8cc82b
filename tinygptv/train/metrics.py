"""metrics.jsonl: one line per step, and a progress line every few seconds. Written by rank 0."""

import json
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygptv.definitions.recipe import Schedule
from tinygptv.train.job import Job, read_metrics
from tinygptv.train.schedule import total_steps
from tinygptv.train.sinks import open_sinks

logger = getLogger(__name__)

_PROGRESS_SECONDS = 2.0
_ETA_STEPS = 20


@dataclass(frozen=True)
class StepResult:
    """A step over all ranks: its loss, that by source and by part, the number of terms it is a mean of, tokens without
    padding, samples."""

    loss: float
    losses: dict[str, float]
    terms: int
    tokens: int
    samples: int
    rate: float
    grad_norm: float | None
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


class Losses:
    """The loss of a step by part and source. A rank adds its micro-batches; `sums` is then reduced over all ranks."""

    def __init__(self, weights: Mapping[str, float], sources: Sequence[str], device: torch.device) -> None:
        """`weights`: of each part of the objective, in the loss."""
        self._weights, self._sources = weights, list(sources)
        count = len(self._sources)
        # Of each part: its share in the loss; the sum of its terms by source; their numbers.
        self.sums = torch.zeros(len(weights), 1 + 2 * count, dtype=torch.float64, device=device)
        self._summed, self._counted = self.sums[:, 1 : 1 + count], self.sums[:, 1 + count :]

    def add(self, part: str, share: Tensor, terms: Tensor, owners: Tensor, sources: Sequence[str]) -> None:
        """One part for a micro-batch: its share of the loss of the whole batch, and the value of each term (terms,).

        `owners` (terms,) says which sample each belongs to, `sources` of which source each sample is.
        """
        row = list(self._weights).index(part)
        self.sums[row, 0] += share
        source = torch.tensor([self._sources.index(source) for source in sources])[owners].to(terms.device)
        self._summed[row].index_add_(0, source, terms.double())
        self._counted[row].index_add_(0, source, torch.ones_like(source, dtype=torch.float64))

    @property
    def total(self) -> float:
        """The loss of the batch."""
        return sum(self.sums[:, 0].tolist())

    def by_part(self) -> dict[str, float]:
        """Each part's mean over the batch, without its weight."""
        shares = zip(self._weights.items(), self.sums[:, 0].tolist(), strict=True)
        return {part: share / weight for (part, weight), share in shares}

    def by_source(self) -> dict[str, float]:
        """The loss of the terms of each source that was there."""
        losses: dict[str, float] = {}
        rows = zip(self._weights.values(), self._summed.tolist(), self._counted.tolist(), strict=True)
        for weight, summed, counted in rows:
            for source, total, count in zip(self._sources, summed, counted, strict=True):
                if count:
                    losses[source] = losses.get(source, 0.0) + weight * (total / count)
        return losses


class Metrics:
    """The metrics of a stage that begins, or goes on, with step `begin`, counted from 0."""

    def __init__(self, job: Job, path: Path, begin: int) -> None:
        self._job, self._schedule, self._path = job, job.stage.schedule, path
        self._last_line = 0.0
        self._sinks = open_sinks(path.parent)
        self.rewind(begin)

    def rewind(self, begin: int) -> None:
        """Drop the lines of steps from `begin` on, which will be taken again."""
        known = read_metrics(self._path)
        kept = known[:begin]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a", buffering=1)
        self._seconds: list[float] = []
        self._sinks.begin(begin + 1, len(known))

    def write(self, step: int, batch: int, result: StepResult) -> None:
        """Record what step `step`, counted from 0, did with batch number `batch` of the mixture's order."""
        self._seconds = [*self._seconds[1 - _ETA_STEPS :], result.seconds]
        left = total_steps(self._schedule) - step - 1
        row = {
            "step": step + 1,
            "round": step // self._schedule.steps + 1,
            "batch": batch + 1,
            "loss": result.loss,
            "losses": {source: round(loss, 6) for source, loss in result.losses.items()},
            **({"loss_parts": result.parts} if len(result.parts) > 1 else {}),
            "lr": result.rate,
            "grad_norm": result.grad_norm,
            "samples_per_second": round(result.samples / result.seconds, 2),
            "tokens_per_second": round(result.tokens / result.seconds, 1),
            "utilisation": _utilisation(self._job, result),
            "seconds": round(result.seconds, 5),
            "seconds_left": round(left * sum(self._seconds) / len(self._seconds), 1),
            "peak_memory_bytes": _peak_memory(self._job),
            "tombstones": self._job.tombstones,
        }
        self._file.write(json.dumps(row) + "\n")
        self._sinks.write(row)
        if not left or time.monotonic() - self._last_line >= _PROGRESS_SECONDS:
            self._last_line = time.monotonic()
            logger.info("%s", progress_line(self._job.stage.stage, self._schedule, row))

    def sync(self) -> None:
        """Sync all lines to disk, as a checkpoint that continues after them requires."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left and close the file and all sinks."""
        self._file.close()
        self._sinks.close()


def progress_line(stage: str, schedule: Schedule, row: dict[str, Any]) -> str:
    """`stage1 120/300 loss 1.2340 lr 3.00e-03 310 samples/s, 3 min left`."""
    done, speed = f"{row['step']}/{total_steps(schedule)}", row["samples_per_second"]
    left = row["seconds_left"]
    until = f", {_duration(left)} left" if left else ""
    return f"{stage} {done} loss {row['loss']:.4f} lr {row['lr']:.2e} {speed:.0f} samples/s{until}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _utilisation(job: Job, result: StepResult) -> float | None:
    """The share of the machine's peak operations that the model used; None if either is unknown."""
    hardware = job.hardware
    if hardware.tflops is None or job.flops_per_sample is None or job.flops_per_token is None:
        return None
    possible = hardware.tflops * 1e12 * hardware.world_size * result.seconds
    return round((job.flops_per_sample * result.samples + job.flops_per_token * result.tokens) / possible, 4)


def _peak_memory(job: Job) -> int:
    if job.hardware.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
