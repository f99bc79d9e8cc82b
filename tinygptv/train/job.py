"""A stage's job: what every rank needs to know, as a file, and the files that a training leaves. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from tinygptv.definitions.base import Definition
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora, Stage

JOB, TRAINED, METRICS, CHECKPOINTS, LOG = "job.json", "trained.safetensors", "metrics.jsonl", "checkpoints", "train.log"


class Job(Definition):
    """All that a rank needs to know, as a file. `inherits`: what earlier stages trained and this one carries on.
    `tombstones`: how many there were when the ranks were started, which all of them mask alike. `flops_per_sample` and,
    on top, `flops_per_token`: what the model computes forward and backward, by the plan; for the utilisation.
    `features`: the artifact that stands in for the frozen parts, if they were computed before. `usable`: the one that
    says which samples are left out."""

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
        """What a checkpoint must share to be gone on from: all that decides what is learned, and no machine.

        The weights of the stage before are known by stage and hash, wherever the workdir lies now.
        """
        learned = {"stage", "model", "lora", "seed", "mixture", "inherits"}
        content = self.model_dump(mode="json", include=learned)
        for field in ("about", "checkpoint_every", "keep", "watch", "gates"):
            del content["stage"][field]
        return content | {"previous": "/".join(Path(self.previous).parts[-2:]) if self.previous else None}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; one torn by a crash ends the reading."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
