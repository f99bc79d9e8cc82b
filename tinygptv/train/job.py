"""A stage's job: the file that tells every rank what to do, and the names of the files a training leaves. No torch."""

import json
from pathlib import Path
from typing import Any

from tinygptv.definitions.base import Definition
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora, Stage

JOB, TRAINED, METRICS, CHECKPOINTS, LOG = "job.json", "trained.safetensors", "metrics.jsonl", "checkpoints", "train.log"


class Job(Definition):
    """All that a rank needs to know.

    `inherits`: what earlier stages trained and this one keeps. `tombstones`: how many there were when the ranks were
    started, so that all of them mask the same samples. `flops_per_sample` plus `flops_per_token`: what the model
    computes forward and backward according to the plan, for the utilisation. `features`: the artifact with the output
    of the frozen prefix, if that was computed in advance. `usable`: the artifact that says which samples are left out.
    """

    stage: Stage
    model: Model
    lora: Lora | None
    seed: int
    hardware: Hardware
    workdir: str
    mixture: str
    previous: str | None
    inherits: list[str]
    tombstones: int = 0
    flops_per_sample: float | None = None
    flops_per_token: float | None = None
    features: str | None = None
    usable: str | None = None

    def lineage(self) -> dict[str, Any]:
        """What a checkpoint must share to be resumed from: all that decides what is learned, nothing about machines.

        The previous stage's weights are identified by stage and hash, so the workdir may have moved.
        """
        learned = {"stage", "model", "lora", "seed", "mixture", "inherits"}
        content = self.model_dump(mode="json", include=learned)
        for field in ("about", "checkpoint_every", "keep", "watch", "gates"):
            del content["stage"][field]
        return content | {"previous": "/".join(Path(self.previous).parts[-2:]) if self.previous else None}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file, up to the first that a crash cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
