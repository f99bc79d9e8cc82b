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
from tinygptv.data.prompts import ask
from tinygptv.definitions.mixture import Task
from tinygptv.sample import Sample

if TYPE_CHECKING:
    from tinygptv.release.folder import Release

logger = logging.getLogger(__name__)

EXPOSURE_SAMPLES = 256
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

    With `noise` every picture is replaced by noise of the average brightness and contrast of them all.
    """
    collator = Collator(
        release.tokenizer, release.inputs, release.model.num_image_tokens, other_ends=release.other_ends
    )
    order = sorted(range(len(samples)), key=lambda row: len(ask(samples[row], task, release.inputs)))
    answers = [""] * len(samples)
    exposure = _exposure(collator, samples[:EXPOSURE_SAMPLES], task) if noise else None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collator.prompts([samples[row] for row in rows], task)
        if exposure:
            batch = replace(batch, pixels=noise_pictures(batch, *exposure))
        for row, text in zip(rows, _generate(release, collator, batch, max_new_tokens), strict=True):
            answers[row] = text
    return answers


def noise_pictures(batch: Batch, mean: float, deviation: float) -> Tensor:
    """Gaussian noise in the shape of `batch.pixels` (B, 3, H, W), one picture per key; needs one per sample.

    `mean` and `deviation`, in units of [0, 1], are those of the benchmark's pictures on average. Noise over the full
    range would be unlike any exposure the model knows: it then leaves the form of an answer ("false" when asked how
    many) and scores below chance. A picture's own contrast would say how much is in it, and score above.
    """
    side = batch.pixels.shape[-1]
    pictures = []
    for key in batch.keys:
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
        noise = rng.normal(mean, deviation, (side, side, 3)) * 255
        pictures.append(noise.round().clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _exposure(collator: Collator, samples: Sequence[Sample], task: Task) -> tuple[float, float]:
    """Average brightness and contrast of the samples' pictures, in units of [0, 1]."""
    pixels = collator.prompts(samples, task).pixels.double() / 255
    return pixels.mean().item(), pixels.std(dim=(1, 2, 3), correction=0).mean().item()


def _generate(release: "Release", collator: Collator, batch: Batch, max_new_tokens: int) -> list[str]:
    device = next(release.model.parameters()).device
    written = release.model.generate(
        batch.images(device),
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        max_new_tokens,
        collator.sequences.stops,
    )
    return [collator.sequences.answer(row) for row in written.tolist()]
