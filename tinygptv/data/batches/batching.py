"""Samples → batches of tensors. B samples, T tokens (text and image slots), N images of H x W px."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.features import Features
from tinygptv.data.batches.packing import pack
from tinygptv.data.mixtures.mixing import MixedSamples
from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.pictures.pixels import ImageReader
from tinygptv.data.prompting.prompts import ask, render
from tinygptv.data.prompting.sequences import Sequences, Texts
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.preprocessing import CLIP, Preprocessing
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError, DefinitionError, StorageError
from tinygptv.sample import Sample, Turn
from tinygptv.store.artifacts import Store

MAX_STAND_INS = 16
"""Consecutive unusable samples after which loading fails."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors for one forward pass. Images are those of all samples in order; text-only samples have none.

    pixels (N, 3, H, W) uint8; input_ids, attention_mask, labels (B, T) int64; labels are IGNORE_INDEX where there is
    no loss. `keys` and `sources` identify the samples. With packing, samples share rows (see `packing`) and
    position_ids (B, T) restart at 0 for each. `replaced` lists samples that could not be used. With precomputed
    features, image_features (N, tokens, width) replace pixels, which are then empty. `preprocessing` is that of the
    vision encoder.
    """

    pixels: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    position_ids: Tensor | None = None
    replaced: tuple["Replaced", ...] = ()
    image_features: Tensor | None = None
    preprocessing: Preprocessing = CLIP

    def images(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """The model's image input: features, or normalised pixels (see `normalise`)."""
        if self.image_features is not None:
            return self.image_features.to(device, dtype)
        return normalise(self.pixels.to(device), self.preprocessing).to(dtype)

    @property
    def owners(self) -> Tensor:
        """The sample that each token belongs to, as an index into `keys`: (B, T) int64."""
        if self.position_ids is None:
            return torch.arange(len(self.labels))[:, None].expand_as(self.labels)
        return (self.position_ids == 0).flatten().cumsum(0).sub(1).view_as(self.labels)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A sample that could not be used, why, and the key of its replacement."""

    source: str
    key: str
    reason: str
    stand_in: str


class UnusableSampleError(DataError):
    """A sample that cannot be used in a batch; `number` is its index."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample of a step, its task, and its turns as the model reads them."""

    sample: Sample
    task: Task
    turns: tuple[Turn, ...]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder. Raises DefinitionError if it is missing or damaged."""
    if not (folder / "tokenizer.json").is_file():
        raise DefinitionError(f"{folder}: no tokenizer.json; point `tokenizer` at a folder that holds one")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library has no exception type for an unreadable file
        raise DefinitionError(f"{folder}/tokenizer.json: not a tokenizer ({error}); copy the folder again") from error


class Collator:
    """Turns and images (or their `features`) → a Batch, for one tokenizer and one stage's inputs, with
    `num_image_tokens` per image."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        inputs: Inputs,
        num_image_tokens: int,
        features: Features | None = None,
        extra_stop_strings: Sequence[str] = (),
        preprocessing: Preprocessing = CLIP,
    ) -> None:
        self.inputs = inputs
        self.sequences = Sequences(tokenizer, inputs, num_image_tokens, extra_stop_strings)
        self._features, self._preprocessing = features, preprocessing
        reader = ImageReader(inputs.image_size, inputs.decoding, preprocessing=preprocessing)
        self._images = reader if features is None else features

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Start prefetching the images of these samples, if they are on S3."""
        if isinstance(self._images, ImageReader):
            self._images.prefetch(samples)

    def training(self, samples: Sequence[Sample], rendered: Sequence[tuple[Turn, ...]], packing: bool = False) -> Batch:
        """Build a right-padded batch with labels; `rendered` holds each sample's turns as rendered by `prompts.render`.

        With `packing`, samples share rows and their order changes.
        """
        texts = self.sequences.training(rendered)
        pictures = self._pictures(samples, texts)
        if not packing:
            return self._batch(samples, pictures, texts)
        texts, position_ids, order = pack(texts)
        batch = self._batch([samples[number] for number in order], [pictures[number] for number in order], texts)
        return replace(batch, position_ids=position_ids)

    def prompts(self, samples: Sequence[Sample], task: Task) -> Batch:
        """Build a batch for generation: the first turn's prompt in the evaluation wording, left-padded, no labels."""
        texts = self.sequences.prompts([self._prompt(sample, task) for sample in samples])
        return self._batch(samples, self._pictures(samples, texts), texts)

    def prompt_length(self, sample: Sample, task: Task) -> int:
        """The number of tokens and image slots in a sample's row of `prompts`."""
        return self.sequences.prompt_length(self._prompt(sample, task))

    def _prompt(self, sample: Sample, task: Task) -> str:
        return ask(self.sequences.as_text(sample), task, self.inputs)

    def _batch(self, samples: Sequence[Sample], pictures: Sequence[list[Any]], texts: Texts) -> Batch:
        shown, side = list(itertools.chain.from_iterable(pictures)), self.inputs.image_size
        batch = Batch(
            torch.empty(0, 3, side, side, dtype=torch.uint8),
            *texts,
            keys=tuple(sample.key for sample in samples),
            sources=tuple(sample.source for sample in samples),
            preprocessing=self._preprocessing,
        )
        if self._features is not None:
            return replace(batch, image_features=self._features.stack(shown))
        return replace(batch, pixels=torch.from_numpy(np.stack(shown))) if shown else batch

    def _pictures(self, samples: Sequence[Sample], texts: Texts) -> list[list[Any]]:
        """Pixels or features of each sample's images, one list per sample. Raises UnusableSampleError."""
        pictures: list[list[Any]] = []
        for sample, shown in zip(samples, self.sequences.images(texts.input_ids), strict=True):
            try:
                pictures.append(self._shown(sample, shown))
            except StorageError:  # S3 being unavailable is not the sample's fault
                raise
            except DataError as error:
                raise UnusableSampleError(len(pictures), str(error)) from error
        return pictures

    def _shown(self, sample: Sample, shown: int) -> list[Any]:
        """The first `shown` images; a truncated sequence may contain fewer than the sample."""
        if shown > len(sample.images):
            raise DataError(
                f"{sample.source}, {sample.key}: its prompt shows {shown} images, the sample has {len(sample.images)}"
            )
        return [self._images.read(image, sample.key) for image in sample.images[:shown]]


class Loader:
    """A stage's batches: any step, any rank's share, in any order. Equal arguments give equal bytes."""

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
        packing: bool = False,
        replacing: bool = False,
        features: Features | None = None,
        usable: str | None = None,
        preprocessing: Preprocessing = CLIP,
    ) -> None:
        """`mixture` is the artifact made by `mix`. Samples named by tombstones (only `first_tombstones`, if given) are
        masked, and so are those that the artifact `usable` lists.

        With `packing`, samples share rows. With `replacing`, an unusable sample is replaced by another of its component
        instead of raising an error. With `features`, no image is read.
        """
        self.mixed = MixedSamples(store, mixture, first_tombstones, usable)
        self.collator = Collator(tokenizer, inputs, num_image_tokens, features, preprocessing=preprocessing)
        self.global_batch_size, self.seed = global_batch_size, seed
        self._order = self.mixed.order(seed, global_batch_size)
        self._packing, self._replacing = packing, replacing

    @property
    def sources(self) -> list[str]:
        """The sources of the mixture's samples."""
        return list(dict.fromkeys(component.source for component in self.mixed.mixture.components))

    def batch_size(self, step: int) -> int:
        """The number of samples in a step over all ranks: the global batch size, or that of the step's component."""
        return len(self._order.draw(step))

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A rank's share of a step's global batch as one Batch."""
        return self.micro_batches(step, rank, ranks, self.global_batch_size)[0]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """A rank's share of a step's global batch, in batches of at most `micro_batch_size` samples.

        Raises DefinitionError if the batch does not divide by the ranks, DataError for an unusable sample.
        """
        samples = self.batch_size(step)
        if samples % ranks:
            raise DefinitionError(f"a global batch of {samples} cannot be divided evenly among {ranks} ranks")
        share = samples // ranks
        slots, size = range(rank * share, (rank + 1) * share), min(micro_batch_size, share)
        drawn = self.drawn(step, slots)
        self.collator.prefetch(one.sample for one in drawn)
        return [
            self._slots(step, slots[start : start + size], drawn[start : start + size])
            for start in range(0, share, size)
        ]

    def drawn(self, step: int, slots: range) -> list[Drawn]:
        """The samples in some slots of a step's global batch."""
        places = self._order.draw(step)[slots.start : slots.stop]
        return self._drawn(step, slots, places)

    def _drawn(self, step: int, slots: Iterable[int], places: Sequence[tuple[int, int]]) -> list[Drawn]:
        inputs, components = self.collator.inputs, self.mixed.mixture.components
        drawn = []
        for sample, (component, _), slot in zip(self.mixed.samples(places), places, slots, strict=True):
            task, rng = components[component].task, random.Random(f"{self.seed} {step} {slot}")
            wording_rng = random.Random(f"{self.seed} {step}") if "one_wording_per_batch" in inputs.oddities else rng
            turns = render(self.collator.sequences.as_text(sample), task, inputs, rng, wording_rng)
            drawn.append(Drawn(sample, task, turns))
        return drawn

    def _slots(self, step: int, slots: range, drawn: list[Drawn]) -> Batch:
        replaced, tries = list[Replaced](), Counter[int]()
        while True:
            try:
                batch = self.collator.training(
                    [one.sample for one in drawn], [one.turns for one in drawn], self._packing
                )
                return replace(batch, replaced=tuple(replaced))
            except UnusableSampleError as error:
                slot, unusable = slots[error.number], drawn[error.number].sample
                tries[slot] += 1
                if not self._replacing or tries[slot] > MAX_STAND_INS:
                    others = f"; {MAX_STAND_INS} stand-ins cannot be used either" if self._replacing else ""
                    raise DataError(f"{unusable.source}: a sample cannot be used: {error}{others}") from error
                drawn[error.number] = self._stand_in(step, slot, tries[slot])
                stand_in = drawn[error.number].sample.key
                replaced.append(Replaced(unusable.source, unusable.key, str(error), stand_in))

    def _stand_in(self, step: int, slot: int, number: int) -> Drawn:
        """Another sample of the same component, chosen at random because unusable samples come in runs; seeded by step
        and slot, so that every rank chooses the same."""
        component, _ = self._order.draw(step)[slot]
        rng = random.Random(f"{self.seed} {step} {slot} {number}")
        mask = self.mixed.masks[component] if self.mixed.masks else None
        position = rng.randrange(self.mixed.sizes[component])
        while mask is not None and mask[position]:
            position = rng.randrange(len(mask))
        return self._drawn(step, [slot], [(component, position)])[0]
