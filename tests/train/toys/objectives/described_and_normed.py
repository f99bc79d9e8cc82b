"""An objective of two parts that the package does not have: the next token, and a loss on image embeddings."""

from typing import ClassVar

import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.train.objective import PartLosses
from tinygptv.train.objectives import image_norm, next_token


class DescribedAndNormed(next_token.NextToken):
    parts: ClassVar[dict[str, float]] = {next_token.PART: 1.0, image_norm.PART: 0.5}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return super().terms(batch) | {image_norm.PART: torch.arange(len(batch.keys))}

    def losses(self, model: VisionLanguageModel, *inputs: Tensor | None) -> PartLosses:
        assert inputs[0] is not None
        return super().losses(model, *inputs) | {image_norm.PART: image_norm.image_norm(model, inputs[0])}


OBJECTIVE = DescribedAndNormed()
