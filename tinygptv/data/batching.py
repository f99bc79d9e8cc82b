"""Samples → batches of tensors. B samples, T tokens (text and image slots), N images of H x W px.

One sequence is, turn by turn: the BOS token, the prompt's pieces with image slots between them, the answer, the end
symbol. Pieces are tokenised apart, without special tokens, and only answers and end symbols are learned. Source:
TinyGPT-V `minigpt_base.py`, `preparing_embedding`; unlike it, a BOS inside a conversation is attended to (there the
padding mask drops it, because BOS and pad share an id), and an answer that is too long keeps its end symbol.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.artifacts import Store
from tinygptv.data.drawing import draw
from tinygptv.data.images import ImageReader, Pixels, normalise
from tinygptv.data.mixing import MixedSamples
from tinygptv.data.prompts import IMAGE_PLACE, render
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, Sample, Turn


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


@dataclass(slots=True)
class _Sequence:
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], learned: bool = False) -> None:
        self.ids += ids
        self.labels += ids if learned else [IGNORE_INDEX] * len(ids)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder. Raises DefinitionError if there is none."""
    if not (folder / "tokenizer.json").is_file():
        raise DefinitionError(f"{folder}: no tokenizer.json; point `tokenizer` at a folder that holds one")
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


class Collator:
    """Turns and images → a Batch, for one tokenizer, one stage's inputs and `num_image_tokens` per image."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, inputs: Inputs, num_image_tokens: int) -> None:
        if tokenizer.bos_token_id is None:
            raise DefinitionError("the tokenizer has no BOS token; every sequence begins with one")
        self.inputs = inputs
        self._begin = [int(tokenizer.bos_token_id)]
        self._pad = next(int(i) for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self._slots = [IMAGE_SLOT] * num_image_tokens
        backend = tokenizer.backend_tokenizer
        self._ids = functools.lru_cache(maxsize=2**16)(
            lambda text: tuple(backend.encode(text, add_special_tokens=False).ids)
        )
        self.end_ids = self._ids(inputs.end_symbol)
        """The end symbol's tokens: what generation stops at."""
        if not 0 < len(self.end_ids) < inputs.max_text_tokens:
            raise DefinitionError(
                f"inputs.end_symbol {inputs.end_symbol!r} has {len(self.end_ids)} tokens, of max_text_tokens "
                f"{inputs.max_text_tokens}; it needs at least one, and room for an answer before it"
            )
        self._images = ImageReader(inputs.image_size)

    def training(self, samples: Sequence[Sample], rendered: Sequence[tuple[Turn, ...]]) -> Batch:
        """Right-padded, with labels; `rendered` holds each sample's turns as `prompts.render` gives them."""
        sequences = [self._sequence(turns) for turns in rendered]
        return self._batch(samples, sequences, rendered, pad_left=False)

    def prompts(self, samples: Sequence[Sample], task: Task) -> Batch:
        """For generation: the first turn's prompt in the evaluation wording, left-padded; nothing is learned."""
        rendered = [render(sample, task, self.inputs.template) for sample in samples]
        sequences = []
        for turns in rendered:
            sequence = _Sequence()
            self._add_prompt(sequence, turns[0].instruction)
            sequences.append(sequence)
        return self._batch(samples, sequences, rendered, pad_left=True)

    def _sequence(self, turns: tuple[Turn, ...]) -> _Sequence:
        """All that follows the first prompt is at most `max_text_tokens` long: the answer that does not fit is cut
        before its end symbol, and turns for which there is no room are left out."""
        sequence = _Sequence()
        self._add_prompt(sequence, turns[0].instruction)
        last = len(sequence.ids) + self.inputs.max_text_tokens - len(self.end_ids)
        for number, turn in enumerate(turns):
            if number:
                prompt = _Sequence()
                self._add_prompt(prompt, turn.instruction)
                if len(sequence.ids) + len(prompt.ids) >= last:
                    break
                sequence.add(prompt.ids)
            sequence.add(self._ids(turn.answer)[: last - len(sequence.ids)], learned=True)
            sequence.add(self.end_ids, learned=True)
        return sequence

    def _add_prompt(self, sequence: _Sequence, prompt: str) -> None:
        sequence.add(self._begin)
        for number, piece in enumerate(prompt.split(IMAGE_PLACE)):
            if number:
                sequence.add(self._slots)
            if piece:
                sequence.add(self._ids(piece))

    def _batch(
        self,
        samples: Sequence[Sample],
        sequences: Sequence[_Sequence],
        rendered: Sequence[tuple[Turn, ...]],
        pad_left: bool,
    ) -> Batch:
        length = max(len(sequence.ids) for sequence in sequences)
        shape = (len(sequences), length)
        ids, mask, labels = np.full(shape, self._pad), np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX)
        for row, sequence in enumerate(sequences):
            here = slice(length - len(sequence.ids), None) if pad_left else slice(len(sequence.ids))
            ids[row, here], mask[row, here], labels[row, here] = sequence.ids, 1, sequence.labels
        pixels = [
            self._pixels(sample)
            for sample, turns in zip(samples, rendered, strict=True)
            for turn in turns
            for _ in range(turn.instruction.count(IMAGE_PLACE))
        ]
        side = self.inputs.image_size
        stacked = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
        return Batch(
            pixel_values=torch.from_numpy(normalise(stacked)),
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            keys=tuple(sample.key for sample in samples),
            sources=tuple(sample.source for sample in samples),
        )

    def _pixels(self, sample: Sample) -> Pixels:
        if sample.image is None:
            raise DataError(f"{sample.source}, {sample.key}: its prompt shows an image but the sample has none")
        return self._images.read(sample.image, sample.key)


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
    ) -> None:
        """`mixture` names the artifact that `mix` made."""
        self.mixed = MixedSamples(store, mixture)
        self.collator = Collator(tokenizer, inputs, num_image_tokens)
        self.global_batch_size, self.seed = global_batch_size, seed

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

    def _slots(self, step: int, slots: range) -> Batch:
        mixture = self.mixed.mixture
        places = draw(mixture, self.mixed.sizes, self.seed, step, self.global_batch_size)[slots.start : slots.stop]
        samples = self.mixed.samples(places)
        template = self.collator.inputs.template
        rendered = [
            render(sample, mixture.components[component].task, template, random.Random(f"{self.seed} {step} {slot}"))
            for sample, (component, _), slot in zip(samples, places, slots, strict=True)
        ]
        return self.collator.training(samples, rendered)
