"""Benchmark items + model → answers: greedy, batched, cut at the end symbol, the same for any batch size."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tinygptv.data.batching import Batch, Collator
from tinygptv.data.images import normalise
from tinygptv.data.prompts import render
from tinygptv.definitions.mixture import Task
from tinygptv.sample import Sample

if TYPE_CHECKING:
    from tinygptv.release.folder import Release

logger = logging.getLogger(__name__)

BATCH_SIZE = 32


def answer_all(
    release: "Release",
    samples: Sequence[Sample],
    task: Task,
    max_new_tokens: int,
    *,
    noise: bool = False,
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """One answer per sample, in the samples' order; prompts of like length share a batch.

    With `noise` every picture is replaced by uniform noise that depends on the sample's key alone.
    """
    collator = Collator(release.tokenizer, release.inputs, release.model.num_image_tokens)
    order = sorted(range(len(samples)), key=lambda row: _prompt_length(samples[row], task, release.inputs.template))
    answers = [""] * len(samples)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collator.prompts([samples[row] for row in rows], task)
        if noise:
            batch = replace(batch, pixel_values=noise_pictures(batch))
        for row, text in zip(rows, _generate(release, collator, batch, max_new_tokens), strict=True):
            answers[row] = text
    return answers


def noise_pictures(batch: Batch) -> Tensor:
    """Uniform noise in the shape of `batch.pixel_values` (B, 3, H, W), one picture per key; needs one per sample."""
    side = batch.pixel_values.shape[-1]
    pictures = []
    for key in batch.keys:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        pictures.append(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))
    return torch.from_numpy(normalise(np.stack(pictures)))


def _generate(release: "Release", collator: Collator, batch: Batch, max_new_tokens: int) -> list[str]:
    device = next(release.model.parameters()).device
    end = release.tokenizer.eos_token_id
    written = release.model.generate(
        batch.pixel_values.to(device),
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        max_new_tokens,
        stop_ids=[collator.end_ids[-1], *([] if end is None else [int(end)])],
    )
    texts = release.tokenizer.batch_decode(written.tolist(), skip_special_tokens=True)
    return [text.split(release.inputs.end_symbol)[0].strip() for text in texts]


def _prompt_length(sample: Sample, task: Task, template: str | None) -> int:
    return len(render(sample, task, template)[0].instruction)
