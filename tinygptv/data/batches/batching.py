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

STAND_INS = 16
"""How many samples in a row may be unusable before that is an error."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors for one forward pass. Images are those of all samples in order; text-only samples have none.

    pixels (N, 3, H, W) uint8; input_ids, attention_mask, labels (B, T) int64; labels are IGNORE_INDEX where nothing is
    learned. `keys` and `sources` say which samples these are. If samples share rows (see `packing`),
    position_ids (B, T) say where each begins: at 0. `replaced` are those that could not be used. Where features were
    computed before, image_features (N, tokens, width) stand in for pixels, which are then none. `preprocessing` is that
    of the vision encoder.
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
        """What the model takes of the images: their features, or the values of their pixels (see `normalise`)."""
        if self.image_features is not None:
            return self.image_features.to(device, dtype)
        return normalise(self.pixels.to(device), self.preprocessing).to(dtype)

    @property
    def owners(self) -> Tensor:
        """Which sample each token belongs to, by its number in `keys`: (B, T) int64."""
        if self.position_ids is None:
            return torch.arange(len(self.labels))[:, None].expand_as(self.labels)
        return (self.position_ids == 0).flatten().cumsum(0).sub(1).view_as(self.labels)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A sample that could not be used, why, and the key of the one that stands in for it."""

    source: str
    key: str
    reason: str
    stand_in: str


class UnusableSampleError(DataError):
    """One of some samples cannot be made a part of a batch; `number` says which."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


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
    """Turns and images, or the `features` of these, → a Batch, for one tokenizer, one stage's inputs and
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

    def expect(self, samples: Iterable[Sample]) -> None:
        """Begin to fetch what these samples show, if it lies on S3."""
        if isinstance(self._images, ImageReader):
            self._images.expect(samples)

    def training(self, samples: Sequence[Sample], rendered: Sequence[tuple[Turn, ...]], packing: bool = False) -> Batch:
        """Right-padded, with labels; `rendered` holds each sample's turns as `prompts.render` gives them.

        With `packing` samples share rows, and are in an order of their own.
        """
        texts = self.sequences.training(rendered)
        pictures = self._pictures(samples, texts)
        if not packing:
            return self._batch(samples, pictures, texts)
        texts, position_ids, order = pack(texts)
        batch = self._batch([samples[number] for number in order], [pictures[number] for number in order], texts)
        return replace(batch, position_ids=position_ids)

    def prompts(self, samples: Sequence[Sample], task: Task) -> Batch:
        """For generation: the first turn's prompt in the evaluation wording, left-padded; nothing is learned."""
        texts = self.sequences.asking([self._asked(sample, task) for sample in samples])
        return self._batch(samples, self._pictures(samples, texts), texts)

    def prompt_length(self, sample: Sample, task: Task) -> int:
        """Tokens and image slots of one row of `prompts`."""
        return self.sequences.asking_length(self._asked(sample, task))

    def _asked(self, sample: Sample, task: Task) -> str:
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
        """Pixels or features of each sample's images, one sample to a row. Raises UnusableSampleError."""
        pictures: list[list[Any]] = []
        for sample, shown in zip(samples, self.sequences.images(texts.input_ids), strict=True):
            try:
                pictures.append(self._shown(sample, shown))
            except StorageError:  # that S3 stays away is no fault of a sample's
                raise
            except DataError as error:
                raise UnusableSampleError(len(pictures), str(error)) from error
        return pictures

    def _shown(self, sample: Sample, shown: int) -> list[Any]:
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
        packing: bool = False,
        replacing: bool = False,
        features: Features | None = None,
        usable: str | None = None,
        preprocessing: Preprocessing = CLIP,
    ) -> None:
        """`mixture` names the artifact that `mix` made; what the first tombstones, or all, name is masked, and so is
        what a stage cannot learn from, by the artifact `usable`.

        With `packing` samples share rows; with `replacing` one that cannot be used is replaced by another one of its
        component, else it is an error. With `features` no image is read.
        """
        self.mixed = MixedSamples(store, mixture, first_tombstones, usable)
        self.collator = Collator(tokenizer, inputs, num_image_tokens, features, preprocessing=preprocessing)
        self.global_batch_size, self.seed = global_batch_size, seed
        self._order = self.mixed.order(seed, global_batch_size)
        self._packing, self._replacing = packing, replacing

    @property
    def sources(self) -> list[str]:
        """Where samples may come from."""
        return list(dict.fromkeys(component.source for component in self.mixed.mixture.components))

    def batch_size(self, step: int) -> int:
        """How many samples a step holds, over all ranks: the global batch size, or that of the step's component."""
        return len(self._order.draw(step))

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A rank's share of a step's global batch, in one piece."""
        return self.micro_batches(step, rank, ranks, self.global_batch_size)[0]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """A rank's share of a step's global batch, in pieces of at most `micro_batch_size` samples.

        Raises DefinitionError if the ranks cannot share the batch evenly, DataError for a sample that cannot be used.
        """
        samples = self.batch_size(step)
        if samples % ranks:
            raise DefinitionError(f"{ranks} ranks cannot share a global batch of {samples} evenly")
        share = samples // ranks
        slots, size = range(rank * share, (rank + 1) * share), min(micro_batch_size, share)
        drawn = self.drawn(step, slots)
        self.collator.expect(one.sample for one in drawn)
        return [
            self._slots(step, slots[start : start + size], drawn[start : start + size])
            for start in range(0, share, size)
        ]

    def drawn(self, step: int, slots: range) -> list[Drawn]:
        """What some places of a step's global batch hold."""
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
                if not self._replacing or tries[slot] > STAND_INS:
                    others = f"; nor can {STAND_INS} stand-ins" if self._replacing else ""
                    raise DataError(f"{unusable.source}: a sample cannot be used: {error}{others}") from error
                drawn[error.number] = self._stand_in(step, slot, tries[slot])
                stand_in = drawn[error.number].sample.key
                replaced.append(Replaced(unusable.source, unusable.key, str(error), stand_in))

    def _stand_in(self, step: int, slot: int, number: int) -> Drawn:
        """Another sample of the same component: chance decides, for beside a bad one others are bad; but the chance of
        this place in the order, so that everybody finds the same."""
        component, _ = self._order.draw(step)[slot]
        rng = random.Random(f"{self.seed} {step} {slot} {number}")
        mask = self.mixed.masks[component] if self.mixed.masks else None
        position = rng.randrange(self.mixed.sizes[component])
        while mask is not None and mask[position]:
            position = rng.randrange(len(mask))
        return self._drawn(step, [slot], [(component, position)])[0]
