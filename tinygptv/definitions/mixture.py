"""A mixture: which sources a stage sees, how often, and with which instruction."""

from typing import Literal

from pydantic import Field

from tinygptv.definitions.base import Definition

Task = Literal[
    "caption_only",
    "describe",
    "caption",
    "vqa",
    "statement",
    "refer",
    "identify",
    "ground",
    "detect",
    "conversation",
    "explain",
]
"""What is asked about an image: `caption_only` has no instruction (stages 1-2), `describe` draws one of the alignment
prompts (stage 3), `conversation` holds all turns of a talk and `explain` the first alone; the others carry the task
tags of MiniGPT-v2 ([caption], [vqa], [refer], [identify], [grounding], [detection])."""

RUN_SOURCE = "$source"
"""In a component: the pairs source the run was started with (`-p source=…`)."""


class Component(Definition):
    """One source with its weight. Weights are ratios; their sum need not be one."""

    source: str
    task: Task
    weight: float = Field(gt=0)
    max_samples: int | None = Field(default=None, ge=1)


class Mixture(Definition):
    """`per_step`: a batch holds one component, as the reference trains. `per_sample`: every sample is drawn anew."""

    about: str
    draw: Literal["per_step", "per_sample"]
    components: list[Component] = Field(min_length=1)
