"""Samples → batches of tensors. B samples, T tokens (text and image slots), N images of H x W px."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.artifacts import Store
from tinygptv.data.images import ImageReader, Pixels, normalise
from tinygptv.data.mixing import MixedSamples
from tinygptv.data.prompts import ask, render
from tinygptv.data.sequences import Sequences, Texts
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import Sample, Turn


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors for one forward pass. Images are those of all samples in order; text-only samples have none.

    pixel_values (N, 3, H, W) float32; input_ids, attention_mask, labels (B, T) int64; labels are IGNORE_INDEX where
    nothing is learned. `keys` and `sources` say which samples these are.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample of a step, what it is asked as, and its turns as the model reads them."""

    sample: Sample
    task: Task
    turns: tuple[Turn, ...]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder. Raises DefinitionError if there is none, or a damaged one."""
    if not (folder / "tokenizer.json").is_file():
        raise DefinitionError(f"{folder}: no tokenizer.json; point `tokenizer` at a folder that holds one")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library has no class of its own for a file it cannot read
        raise DefinitionError(f"{folder}/tokenizer.json: not a tokenizer ({error}); copy the folder again") from error


class Collator:
    """Turns and images → a Batch, for one tokenizer, one stage's inputs and `num_image_tokens` per image."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, inputs: Inputs, num_image_tokens: int) -> None:
        self.inputs = inputs
        self.sequences = Sequences(tokenizer, inputs, num_image_tokens)
        self._images = ImageReader(inputs.image_size)

    def training(self, samples: Sequence[Sample], rendered: Sequence[tuple[Turn, ...]]) -> Batch:
        """Right-padded, with labels; `rendered` holds each sample's turns as `prompts.render` gives them."""
        return self._batch(samples, self.sequences.training(rendered))

    def prompts(self, samples: Sequence[Sample], task: Task) -> Batch:
        """For generation: the first turn's prompt in the evaluation wording, left-padded; nothing is learned."""
        prompts = [ask(sample, task, self.inputs) for sample in samples]
        return self._batch(samples, self.sequences.asking(prompts))

    def _batch(self, samples: Sequence[Sample], texts: Texts) -> Batch:
        shown = zip(samples, self.sequences.images(texts.input_ids), strict=True)
        pixels = [pixels for sample, images in shown for pixels in self._pixels(sample, images)]
        side = self.inputs.image_size
        stacked = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
        return Batch(
            torch.from_numpy(normalise(stacked)),
            *texts,
            keys=tuple(sample.key for sample in samples),
            sources=tuple(sample.source for sample in samples),
        )

    def _pixels(self, sample: Sample, shown: int) -> list[Pixels]:
        """Those images, in reading order, that are left in a sequence of at most so many tokens."""
        if shown > len(sample.images):
            raise DataError(
                f"{sample.source}, {sample.key}: its prompt shows {shown} images, the sample has {len(sample.images)}"
            )
        return [self._images.read(image, sample.key) for image in sample.images[:shown]]


class Loader:
    """The batches of a stage: any step, any rank's share, at any time. Equal arguments give equal bytes."""

    def __init__(
        self,
        store: Store,
        mixture: str,
        inputs: Inputs,
        tokenizer: PreTrainedTokenizerFast,
        *,
        num_image_tokens: int,
        global_batch_size: int,
        seed: int,
        first_tombstones: int | None = None,
    ) -> None:
        """`mixture` names the artifact that `mix` made; what the first tombstones, or all, name is masked."""
        self.mixed = MixedSamples(store, mixture, first_tombstones)
        self.collator = Collator(tokenizer, inputs, num_image_tokens)
        self.global_batch_size, self.seed = global_batch_size, seed

    @property
    def sources(self) -> list[str]:
        """Where samples may come from."""
        return list(dict.fromkeys(component.source for component in self.mixed.mixture.components))

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A rank's share of a step's global batch, in one piece."""
        return self.micro_batches(step, rank, ranks, self.global_batch_size)[0]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """A rank's share of a step's global batch, in pieces of at most `micro_batch_size` samples.

        Raises DefinitionError if the ranks cannot share the batch evenly.
        """
        if self.global_batch_size % ranks:
            raise DefinitionError(f"{ranks} ranks cannot share a global batch of {self.global_batch_size} evenly")
        share = self.global_batch_size // ranks
        first, size = rank * share, min(micro_batch_size, share)
        return [
            self._slots(step, range(start, min(start + size, first + share)))
            for start in range(first, first + share, size)
        ]

    def drawn(self, step: int, slots: range) -> list[Drawn]:
        """What some places of a step's global batch hold."""
        inputs, components = self.collator.inputs, self.mixed.mixture.components
        places = self.mixed.draw(self.seed, step, self.global_batch_size)[slots.start : slots.stop]
        drawn = []
        for sample, (component, _), slot in zip(self.mixed.samples(places), places, slots, strict=True):
            task, rng = components[component].task, random.Random(f"{self.seed} {step} {slot}")
            wording_rng = random.Random(f"{self.seed} {step}") if "one_wording_per_batch" in inputs.oddities else rng
            drawn.append(Drawn(sample, task, render(sample, task, inputs, rng, wording_rng)))
        return drawn

    def _slots(self, step: int, slots: range) -> Batch:
        drawn = self.drawn(step, slots)
        return self.collator.training([one.sample for one in drawn], [one.turns for one in drawn])
