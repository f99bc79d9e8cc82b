"""An objective that the package does not have: image embeddings of length one per feature; it runs no decoder."""

from typing import ClassVar

import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.train.objective import Inputs, Objective, PartLosses

PART = "image_norm"


def image_norm(model: VisionLanguageModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over images, and the value of each: (I,)."""
    each = (model.image_embeds(images).square().mean(dim=(1, 2)) - 1).square()
    return each.mean(), each.detach()


class ImageNorm(Objective):
    parts: ClassVar[dict[str, float]] = {PART: 1.0}
    uses = ("vision_encoder", "connector")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {PART: torch.arange(len(batch.keys))}

    def inputs(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Inputs:
        return (batch.images(device, dtype),)

    def losses(self, model: VisionLanguageModel, *inputs: Tensor | None) -> PartLosses:
        (images,) = inputs
        assert images is not None
        return {PART: image_norm(model, images)}

    def example_texts(self, samples: int, tokens: int, answer: int, image_tokens: int) -> tuple[Tensor, ...]:
        return ()


OBJECTIVE = ImageNorm()
