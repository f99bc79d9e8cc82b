"""metrics.jsonl: one line per step, and a progress line every few seconds. Written by rank 0."""

import json
import os
import resource
import time
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from tinygptv.definitions.recipe import Schedule
from tinygptv.train.schedule import total_steps
from tinygptv.train.stage import Job, read_metrics

logger = getLogger(__name__)

_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Totals:
    """What the ranks of a step add up to: the mean loss of all labels (nats), tokens without padding."""

    loss: float
    tokens: int


class Metrics:
    """The metrics of a stage that begins, or goes on, with step `begin`, counted from 0."""

    def __init__(self, job: Job, path: Path, begin: int) -> None:
        self._job, self._schedule, self._path = job, job.stage.schedule, path
        self._told = 0.0
        self.rewind(begin)

    def rewind(self, begin: int) -> None:
        """Forget the steps from `begin` on; they will be taken again."""
        kept = read_metrics(self._path)[:begin]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a", buffering=1)

    def write(self, step: int, totals: Totals, rate: float, grad_norm: float | None, seconds: float) -> None:
        """Record what step `step`, counted from 0, did."""
        samples = self._job.stage.global_batch_size / seconds
        row = {
            "step": step + 1,
            "round": step // self._schedule.steps + 1,
            "loss": totals.loss,
            "lr": rate,
            "grad_norm": grad_norm,
            "samples_per_second": round(samples, 2),
            "tokens_per_second": round(totals.tokens / seconds, 1),
            "seconds": round(seconds, 5),
            "peak_memory_bytes": _peak_memory(self._job),
            "tombstones": self._job.tombstones,
        }
        self._file.write(json.dumps(row) + "\n")
        last = step + 1 == total_steps(self._schedule)
        if last or time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            logger.info("%s", progress_line(self._job.stage.stage, self._schedule, row))

    def sync(self) -> None:
        """Have all lines on disk, as a checkpoint that is to go on after them must."""
        os.fsync(self._file.fileno())


def progress_line(stage: str, schedule: Schedule, row: dict[str, Any]) -> str:
    """`stage1 120/300 loss 1.2340 lr 3.00e-03 310 samples/s`."""
    done, speed = f"{row['step']}/{total_steps(schedule)}", row["samples_per_second"]
    return f"{stage} {done} loss {row['loss']:.4f} lr {row['lr']:.2e} {speed:.0f} samples/s"


def _peak_memory(job: Job) -> int:
    if job.hardware.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
