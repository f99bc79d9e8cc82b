"""metrics.jsonl: one line per step, and a progress line every few seconds. Written by rank 0."""

import json
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch
from tinygptv.definitions.recipe import Schedule
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train.job import Job, read_metrics
from tinygptv.train.schedule import total_steps
from tinygptv.train.sinks import open_sinks

logger = getLogger(__name__)

_PROGRESS_SECONDS = 2.0
_ETA_STEPS = 20


@dataclass(frozen=True)
class StepResult:
    """What a step gave over all ranks: mean loss of the labels (nats), the same by source, tokens without padding,
    samples."""

    loss: float
    losses: dict[str, float]
    labels: int
    tokens: int
    samples: int
    rate: float
    grad_norm: float | None
    seconds: float


class Losses:
    """The loss of a step, in all and by source; a rank adds its pieces, then takes over the sums of all ranks."""

    def __init__(self, sources: Sequence[str], device: torch.device) -> None:
        self._sources = list(sources)
        count = len(self._sources)
        # The loss of the batch; summed losses of each source's labels; their numbers.
        self.sums = torch.zeros(1 + 2 * count, dtype=torch.float64, device=device)
        self._summed, self._counted = self.sums[1 : 1 + count], self.sums[1 + count :]

    def add(self, share: Tensor, losses: Tensor, batch: Batch) -> None:
        """A piece: its share in the loss of the whole batch, and the loss of each of its labels (labels,)."""
        self.sums[0] += share
        labelled = batch.labels[:, 1:] != IGNORE_INDEX
        numbers = torch.tensor([self._sources.index(source) for source in batch.sources])[batch.owners[:, 1:]]
        source = numbers[labelled].to(losses.device)
        self._summed.index_add_(0, source, losses.double())
        self._counted.index_add_(0, source, torch.ones_like(source, dtype=torch.float64))

    @property
    def total(self) -> float:
        """The loss of the batch."""
        return self.sums[0].item()

    def by_source(self) -> dict[str, float]:
        """Mean loss of the labels of each source that was there."""
        means = zip(self._sources, self._summed.tolist(), self._counted.tolist(), strict=True)
        return {source: summed / counted for source, summed, counted in means if counted}


class Metrics:
    """The metrics of a stage that begins, or goes on, with step `begin`, counted from 0."""

    def __init__(self, job: Job, path: Path, begin: int) -> None:
        self._job, self._schedule, self._path = job, job.stage.schedule, path
        self._told = 0.0
        self._sinks = open_sinks(path.parent)
        self.rewind(begin)

    def rewind(self, begin: int) -> None:
        """Forget the steps from `begin` on; they will be taken again."""
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
        if not left or time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            logger.info("%s", progress_line(self._job.stage.stage, self._schedule, row))

    def sync(self) -> None:
        """Have all lines on disk, as a checkpoint that is to go on after them must."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing more is written; have it where it belongs."""
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
    """The share of the machine's operations that went into the model; None if either is not known."""
    hardware = job.hardware
    if hardware.tflops is None or job.flops_per_sample is None or job.flops_per_token is None:
        return None
    possible = hardware.tflops * 1e12 * hardware.world_size * result.seconds
    return round((job.flops_per_sample * result.samples + job.flops_per_token * result.tokens) / possible, 4)


def _peak_memory(job: Job) -> int:
    if job.hardware.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
