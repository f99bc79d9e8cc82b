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
from tinygptv.errors import DataError
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

    With `noise` every picture is replaced by noise of the average brightness and contrast of them all. Raises DataError
    for a prompt that leaves the decoder no position to answer in.
    """
    collator, positions = _collator(release), release.model.max_positions
    for sample in samples:
        if (tokens := collator.prompt_length(sample, task)) >= positions:
            raise DataError(
                f"{sample.key}: the prompt has {tokens} tokens, and the decoder has {positions} positions for it and "
                "its answer; shorten the question"
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


def askable(release: "Release", samples: Sequence[Sample], task: Task) -> list[Sample]:
    """The samples whose prompts leave the decoder a position to answer in."""
    collator = _collator(release)
    return [sample for sample in samples if collator.prompt_length(sample, task) < release.model.max_positions]


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


def _collator(release: "Release") -> Collator:
    return Collator(release.tokenizer, release.inputs, release.model.num_image_tokens, other_ends=release.other_ends)


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
    # A row that ran out of positions goes on with its last token.
    rooms = release.model.max_positions - batch.attention_mask.sum(dim=1)
    return [collator.sequences.answer(row[:room]) for row, room in zip(written.tolist(), rooms.tolist(), strict=True)]
