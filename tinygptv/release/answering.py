"""Benchmark items + model → answers: greedy, batched, cut at the end symbol, independent of the batch size."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch, Collator
from tinygptv.data.prompting.prompts import ask
from tinygptv.definitions.mixture import Task
from tinygptv.errors import DataError, PromptTooLongError, StorageError
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
) -> list[str | DataError]:
    """One answer per sample, in order, or the reason why the sample cannot be asked. Batches have similar lengths.

    With `noise`, every image is replaced by noise with the average brightness and contrast of all images.
    """
    collator, positions = _collator(release), release.model.max_positions
    answers: list[str | DataError] = [""] * len(samples)
    for row, sample in enumerate(samples):
        if (tokens := collator.prompt_length(sample, task)) >= positions:
            answers[row] = PromptTooLongError(
                f"{sample.key}: the prompt has {tokens} tokens, but the decoder has {positions} positions for it and "
                "the answer; shorten the question"
            )
    order = [row for row, answer in enumerate(answers) if isinstance(answer, str)]
    order.sort(key=lambda row: len(ask(samples[row], task, release.inputs)))
    exposure = _exposure(collator, samples, task) if noise else None
    for start in range(0, len(order), batch_size):
        rows, batch = _prompts(collator, samples, order[start : start + batch_size], task, answers)
        if batch is None:
            continue
        if exposure:
            shown = collator.sequences.images(batch.input_ids)
            batch = replace(batch, pixels=noise_pictures(batch, shown, *exposure))
        for row, text in zip(rows, _generate(release, collator, batch, max_new_tokens), strict=True):
            answers[row] = text
    return answers


def noise_pictures(batch: Batch, shown: Sequence[int], mean: float, deviation: float) -> Tensor:
    """Gaussian noise in the shape of `batch.pixels` (N, 3, H, W); `shown` is the number of images per sample.

    `mean` and `deviation`, in units of [0, 1], are averages over the benchmark's images. Noise over the full range
    would be far from the training data: the model then answers in the wrong form ("false" when asked how many) and
    scores below chance. Noise with each image's own contrast would reveal how much it shows, and score above chance.
    """
    side = batch.pixels.shape[-1]
    pictures = []
    for key, count in zip(batch.keys, shown, strict=True):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
        for _ in range(count):
            noise = rng.normal(mean, deviation, (side, side, 3)) * 255
            pictures.append(noise.round().clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) if pictures else batch.pixels


def _collator(release: "Release") -> Collator:
    return Collator(
        release.tokenizer,
        release.inputs,
        release.model.num_image_tokens,
        extra_stop_strings=release.extra_stop_strings,
        preprocessing=release.model.preprocessing,
    )


def _exposure(collator: Collator, samples: Sequence[Sample], task: Task) -> tuple[float, float] | None:
    """Average brightness and contrast of the samples' images, in units of [0, 1]; None if there are none."""
    rows = [row for row, sample in enumerate(samples) if sample.images][:EXPOSURE_SAMPLES]
    _, batch = _prompts(collator, samples, rows, task, [""] * len(samples))
    if batch is None or not len(batch.pixels):
        return None
    pixels = batch.pixels.double() / 255
    return pixels.mean().item(), pixels.std(dim=(1, 2, 3), correction=0).mean().item()


def _prompts(
    collator: Collator, samples: Sequence[Sample], rows: list[int], task: Task, answers: list[str | DataError]
) -> tuple[list[int], Batch | None]:
    """The rows that can be asked and their batch, or None. For other rows, the error is put in `answers`."""
    try:
        return rows, collator.prompts([samples[row] for row in rows], task) if rows else None
    except StorageError:  # not the fault of a sample
        raise
    except DataError as error:
        if len(rows) == 1:
            answers[rows[0]] = error
            return [], None
    usable = [row for row in rows if _prompts(collator, samples, [row], task, answers)[0]]
    return usable, collator.prompts([samples[row] for row in usable], task) if usable else None


def _generate(release: "Release", collator: Collator, batch: Batch, max_new_tokens: int) -> list[str]:
    device = next(release.model.parameters()).device
    written = release.model.generate(
        batch.images(device),
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        max_new_tokens,
        collator.sequences.stops,
    )
    # After its last position, a row only repeats its last token.
    lengths = release.model.max_positions - batch.attention_mask.sum(dim=1)
    rows = zip(written.tolist(), lengths.tolist(), strict=True)
    return [collator.sequences.answer(row[:length]) for row, length in rows]
