"""What an objective is: where its batches come from, what it takes of one, and the parts of its loss.

Every objective is one file in `train/objectives/`, which stages name and nothing else lists. A loss has one or several
parts. Each is the mean of its terms (labels, samples, pairs) over the global batch, however that is cut into ranks and
micro-batches, so that hardware does not change what is learned; the loss is their weighted sum.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import ClassVar

import torch
from torch import Tensor, nn

from tinygptv.data.batches.batching import Batch
from tinygptv.data.batches.loading import Batches
from tinygptv.definitions.kinds import load_kind
from tinygptv.definitions.recipe import OBJECTIVES
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.train.batches import mixture_batches
from tinygptv.train.job import Job

MODEL_PARTS = ("vision_encoder", "connector", "language_model")
Inputs = tuple[Tensor | None, ...]
PartLosses = dict[str, tuple[Tensor, Tensor]]
"""By part: its mean over a batch, a scalar that can be differentiated, and the value of each term (terms,)."""


class Objective(ABC):
    """What a stage minimises."""

    parts: ClassVar[Mapping[str, float]]
    """The parts of the loss, and the weight of each."""
    uses: ClassVar[tuple[str, ...]] = MODEL_PARTS
    """What of the model it runs; the rest is neither loaded nor planned for."""

    @property
    def unused(self) -> tuple[str, ...]:
        """What of the model it does not run, as the names of parameters begin."""
        return tuple(f"{part}." for part in MODEL_PARTS if part not in self.uses)

    def open_batches(self, job: Job, num_image_tokens: int, on_loss: Callable[[str], None]) -> Batches:
        """The batches of a job; by default images and token sequences from the mixture of its stage."""
        return mixture_batches(job, num_image_tokens, on_loss)

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """By part: for each of its terms the sample of the batch that it belongs to (terms,), int64, on the host.

        They are counted over all ranks before the model runs.
        """

    @abstractmethod
    def inputs(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Inputs:
        """What `losses` takes of a batch, images first, on the model's device."""

    @abstractmethod
    def losses(self, model: VisionLanguageModel, *inputs: Tensor | None) -> PartLosses:
        """All parts for one batch, its terms in the order of `terms`."""

    @abstractmethod
    def example_texts(self, samples: int, tokens: int, answer: int, image_tokens: int) -> tuple[Tensor, ...]:
        """What follows the images in `inputs`, for planning: sequences of `tokens` tokens, `image_tokens` of which are
        of one image, that end with an answer of `answer` tokens."""


class Learner(nn.Module):
    """A model together with what it is trained for: what DeepSpeed runs and a plan traces."""

    def __init__(self, model: VisionLanguageModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *inputs: Tensor | None) -> PartLosses:
        """See Objective.losses."""
        return self.objective.losses(self.model, *inputs)


def load_objective(name: str) -> Objective:
    """The objective in `train/objectives/<name>.py`. Raises DefinitionError if there is none."""
    objective: Objective = load_kind(OBJECTIVES, name).OBJECTIVE
    return objective


def summed(losses: Mapping[str, Tensor]) -> Tensor:
    """The parts added up; of a single one, that part itself."""
    return reduce(add, losses.values())
