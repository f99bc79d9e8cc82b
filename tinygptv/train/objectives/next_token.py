"""Causal language modelling: the next token, wherever a sequence has a label."""

from typing import ClassVar

import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT
from tinygptv.train.objective import Inputs, Objective, PartLosses

PART = "next_token"


class NextToken(Objective):
    """One part, whose terms are the labels of the batch."""

    parts: ClassVar[dict[str, float]] = {PART: 1.0}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """See Objective. The first token of a sequence is never predicted."""
        return {PART: batch.owners[:, 1:][batch.labels[:, 1:] != IGNORE_INDEX]}

    def inputs(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Inputs:
        """See Objective."""
        texts = (batch.input_ids, batch.attention_mask, batch.labels, batch.position_ids)
        return batch.images(device, dtype), *(None if tensor is None else tensor.to(device) for tensor in texts)

    def losses(self, model: VisionLanguageModel, *inputs: Tensor | None) -> PartLosses:
        """See Objective."""
        return {PART: model(*inputs)}

    def example_texts(self, samples: int, tokens: int, answer: int, image_tokens: int) -> tuple[Tensor, ...]:
        """See Objective: input_ids, attention_mask, labels."""
        input_ids = torch.zeros(samples, tokens, dtype=torch.int64)
        input_ids[:, 1 : 1 + image_tokens] = IMAGE_SLOT
        labels = input_ids.new_full(input_ids.shape, IGNORE_INDEX)
        labels[:, -answer:] = 0
        return input_ids, torch.ones_like(input_ids), labels


OBJECTIVE = NextToken()
