"""A mixture: which sources a stage sees, how often, and with which instruction."""

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
"""What is asked about an image: `caption_only` has no instruction (stages 1-2), `describe` draws one of the alignment
prompts (stage 3), `conversation` holds all turns of a talk and `explain` the first alone; the others carry the task
tags of MiniGPT-v2 ([caption], [vqa], [refer], [identify], [grounding], [detection])."""

RUN_SOURCE = "$source"
"""In a component: the pairs source the run was started with (`-p source=…`)."""


LEAST_SHARE = 1e-5
"""Of a mixture's draws: a component that comes more rarely needs a larger deck than can be shuffled in passing."""


class Component(Definition):
    """One source with its weight. Weights are ratios; their sum need not be one.

    Of more than `max_samples` those are kept whose keys hash lowest. A stage that would draw more than `max_epochs`
    times as many as there are is refused before it trains. `batch_size`: samples of a step of it, over all ranks.
    """

    source: str
    task: Task
    weight: float = Field(gt=0)
    max_samples: int | None = Field(default=None, ge=1)
    max_epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)


class Mixture(Definition):
    """`per_step`: a batch holds one component, as the reference trains. `per_sample`: every sample is drawn anew.

    Drawn per step, all components may have batch sizes of their own, up to the global batch size of the stage; its
    ranks must be able to share each evenly.
    """

    about: str
    draw: Literal["per_step", "per_sample"]
    components: list[Component] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        total = math.fsum(component.weight for component in self.components)
        for place, component in enumerate(self.components):
            if component.weight < LEAST_SHARE * total:
                raise ValueError(
                    f"components[{place}].weight: {component.source} would be {component.weight / total:.1g} of all "
                    f"draws; give it at least {LEAST_SHARE:g} of the sum of weights, or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> Self:
        without = [component.batch_size is None for component in self.components]
        if all(without):
            return self
        if self.draw == "per_sample":
            raise ValueError(
                "batch_size: samples of a per_sample mixture are drawn one by one; draw per_step, or weigh by samples"
            )
        if any(without):
            missing = self.components[without.index(True)].source
            raise ValueError(f"components[{without.index(True)}].batch_size: {missing} has none; give all one, or none")
        return self
