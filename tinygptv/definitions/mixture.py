"""A mixture: the sources a stage samples from, their weights, and their tasks."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

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
"""The task of a sample. `caption_only` has no instruction (stages 1-2), `describe` picks one of the alignment prompts
(stage 3), `conversation` uses all turns of a conversation and `explain` only the first. The others use the task tags of
MiniGPT-v2 ([caption], [vqa], [refer], [identify], [grounding], [detection])."""

RUN_SOURCE = "$source"
"""In a component: the pairs source that the run was started with (`-p source=…`)."""

MIN_SHARE = 1e-5
"""Smallest share of a mixture's draws. A rarer component would need a deck too large to shuffle on the fly."""


class Component(Definition):
    """One source with its weight. Weights are relative; they need not sum to one.

    At most `max_samples` are kept: those with the lowest key hashes. A stage that would draw the samples more than
    `max_epochs` times is refused before training. `batch_size` is the number of samples in a step, over all ranks.
    """

    source: str
    task: Task
    weight: float = Field(gt=0)
    max_samples: int | None = Field(default=None, ge=1)
    max_epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)


class Mixture(Definition):
    """`per_step`: every batch comes from one component, as in the reference. `per_sample`: batches are mixed.

    With `per_step`, components may have their own batch sizes, up to the stage's global batch size; each must divide
    evenly among the ranks.
    """

    about: str
    draw: Literal["per_step", "per_sample"]
    components: list[Component] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        total = math.fsum(component.weight for component in self.components)
        for place, component in enumerate(self.components):
            if component.weight < MIN_SHARE * total:
                raise ValueError(
                    f"components[{place}].weight: {component.source} would be {component.weight / total:.1g} of all "
                    f"draws; give it at least {MIN_SHARE:g} of the sum of weights, or remove it"
                )
        return self

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> Self:
        without = [component.batch_size is None for component in self.components]
        if all(without):
            return self
        if self.draw == "per_sample":
            raise ValueError(
                "batch_size: per_sample mixtures draw single samples; use draw: per_step, or adjust the weights"
            )
        if any(without):
            missing = self.components[without.index(True)].source
            raise ValueError(
                f"components[{without.index(True)}].batch_size: {missing} has none; set it for all or for none"
            )
        return self
