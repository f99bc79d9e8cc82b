"""Rendered turns → token ids, attention mask and labels. B samples, T tokens (text and image slots).

One sequence is, turn by turn: the BOS token where the template begins with it, the prompt's pieces with image slots
between them, the answer with its end. A prompt's pieces are tokenised apart, an answer together with its end symbol,
all without special tokens; only answers and their ends are learned. Masks come from lengths, never from ids. Source:
TinyGPT-V `minigpt_base.py`, `preparing_embedding` and `tokenize_conversation`; where it departs from this by accident,
a stage's `oddities` ask for the accident by name. Special tokens that samples write are text: see `literal`.
"""

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.data.prompting.boxes import CODECS
from tinygptv.data.prompting.literal import MARK, LiteralText
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_PLACE, IMAGE_SLOT, Sample, Turn

_JOINER, _VIRAMA = "\u200d", 9  # a character, and the combining class of signs that join Indic consonants
_TINTS = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))


class Texts(NamedTuple):
    """input_ids, attention_mask, labels (B, T) int64; labels are IGNORE_INDEX where nothing is learned."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(slots=True)
class _Sequence:
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)
    """Positions hidden from attention."""

    def add(self, ids: Sequence[int], learned: bool = False) -> None:
        self.ids += ids
        self.labels += ids if learned else [IGNORE_INDEX] * len(ids)


class Sequences:
    """Turns → Texts, for one tokenizer, one stage's inputs and `num_image_tokens` slots per image.

    Generated answers end at the end symbol of the inputs, or at the first of `extra_stop_strings`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        inputs: Inputs,
        num_image_tokens: int,
        extra_stop_strings: Sequence[str] = (),
    ) -> None:
        if tokenizer.bos_token_id is None and inputs.begin != "never":
            raise DefinitionError(f"inputs.begin is '{inputs.begin}' but the tokenizer has no BOS token; say 'never'")
        if inputs.ends_with_eos and tokenizer.eos_token_id is None:
            raise DefinitionError(
                "inputs.ends_with_eos: the tokenizer has no EOS token; leave it out, or add the token"
            )
        self.inputs = inputs
        backend = tokenizer.backend_tokenizer
        self._decode = functools.partial(backend.decode, skip_special_tokens=True)
        self.literal = LiteralText(tokenizer, inputs)
        self._encode = self.literal.encode
        self._ids = functools.lru_cache(maxsize=2**16)(lambda text: tuple(self._encode(text).ids))
        self._begin = () if inputs.begin == "never" else (int(tokenizer.bos_token_id),)
        self._begin_later = self._begin if inputs.begin == "every_turn" else ()
        self._eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self._symbol = self._ids(inputs.end_symbol)
        self._extra_stop_strings = [self._ids(end) for end in extra_stop_strings]
        self._after_symbol = self._eos if inputs.ends_with_eos else ()
        self._end = self._symbol + self._after_symbol
        if not self._symbol or len(self._end) >= inputs.max_text_tokens:
            raise DefinitionError(
                f"inputs.end_symbol {inputs.end_symbol!r} has {len(self._end)} tokens, of max_text_tokens "
                f"{inputs.max_text_tokens}; it needs at least one, and room for an answer before it"
            )
        self._pad = next(int(i) for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self._slots = (IMAGE_SLOT,) * num_image_tokens

    @property
    def image_tokens(self) -> int:
        """Slots of one image."""
        return len(self._slots)

    def as_text(self, sample: Sample) -> Sample:
        """The sample as it is to be rendered: what it writes is no special token of the tokenizer."""
        return self.literal.sample(sample)

    def images(self, input_ids: Tensor) -> list[int]:
        """How many images each row of (B, T) ids shows."""
        return ((input_ids == IMAGE_SLOT).sum(dim=1) // len(self._slots)).tolist()

    @property
    def stops(self) -> list[tuple[int, ...]]:
        """What ends an answer that is being generated: all tokens of an end symbol in a row, or EOS.

        A single token of a longer end symbol is ordinary text and stops nothing; EOS behind an end symbol is not
        waited for, because what follows a finished answer means nothing.
        """
        written = self._symbol[:-1] if self._symbol[-1:] == self._eos else self._symbol
        return [stop for stop in (written, *self._extra_stop_strings, self._eos) if stop]

    def answer(self, written: Sequence[int]) -> str:
        """The answer in generated ids: text without special tokens, up to the first end symbol."""
        text = str(self._decode(written))
        for symbol in (self._symbol, *self._extra_stop_strings):
            if end := str(self._decode(symbol)):
                text = text.split(end, maxsplit=1)[0]
        return text.strip()

    def length(self, turns: Sequence[Turn]) -> int:
        """Tokens and image slots of a conversation as it is trained on."""
        return len(self._conversation(turns).ids)

    def ends_early(self, answer: str) -> bool:
        """Whether an answer, told back by a model word for word, would be taken to end before it does."""
        text, end = answer.replace(MARK, "").rstrip(), self.written_end
        return bool(end) and (text + end).find(end) < len(text)

    @property
    def written_end(self) -> str:
        """The end symbol without its special tokens, which no text can be taken for."""
        return str(self._decode(self._symbol))

    def training(self, conversations: Iterable[Sequence[Turn]]) -> Texts:
        """Right-padded, with labels; each conversation holds turns as `prompts.render` gives them."""
        return self._padded([self._conversation(turns) for turns in conversations], left=False)

    def asking(self, prompts: Iterable[str]) -> Texts:
        """Left-padded, so that every answer begins after the last column; nothing is learned."""
        return self._padded([self._asking(prompt) for prompt in prompts], left=True)

    def asking_length(self, prompt: str) -> int:
        """Tokens and image slots of a prompt to be answered."""
        return len(self._asking(prompt).ids)

    def _asking(self, prompt: str) -> _Sequence:
        sequence = _Sequence()
        self._add_prompt(sequence, prompt, () if "no_bos_when_asking" in self.inputs.oddities else self._begin)
        return sequence

    def _conversation(self, turns: Sequence[Turn]) -> _Sequence:
        """All that follows the first prompt is at most `max_text_tokens` long: the answer that does not fit is cut
        before its end, or before a box of which it would be left half, and turns for which there is no room are left
        out. Under `end_symbol_cut` what is beyond is cut off, whatever it is but an image."""
        sequence = _Sequence()
        self._add_prompt(sequence, turns[0].instruction, self._begin)
        most = len(sequence.ids) + self.inputs.max_text_tokens
        cut = "end_symbol_cut" in self.inputs.oddities
        for number, turn in enumerate(turns):
            if number:
                prompt = _Sequence()
                self._add_prompt(prompt, turn.instruction, self._begin_later)
                if not cut and len(sequence.ids) + len(prompt.ids) + len(self._end) >= most:
                    break
                if self._begin_later and "later_bos_unseen" in self.inputs.oddities:
                    sequence.unseen.append(len(sequence.ids))
                sequence.add(prompt.ids)
            room = most - len(sequence.ids)
            whole = self._ids(turn.answer + self.inputs.end_symbol) + self._after_symbol
            if len(whole) > room > 0:
                sequence.add(self._cut(turn.answer, room, cut), learned=True)
                most = len(sequence.ids)
                break
            sequence.add(whole, learned=True)
        while most < len(sequence.ids) and sequence.ids[most - 1] == sequence.ids[most] == IMAGE_SLOT:
            most -= 1
        return _Sequence(sequence.ids[:most], sequence.labels[:most], [here for here in sequence.unseen if here < most])

    def _cut(self, answer: str, room: int, end_symbol_too: bool) -> tuple[int, ...]:
        if end_symbol_too:
            return self._beginning(answer + self.inputs.end_symbol, room)
        return self._beginning(answer, room - len(self._end), CODECS[self.inputs.boxes].spans(answer)) + self._end

    def _beginning(self, text: str, most: int, whole: Iterable[tuple[int, int]] = ()) -> tuple[int, ...]:
        """At most so many of a text's tokens: no character broken in two, nor what stands in one of the spans."""
        encoded = self._encode(text)
        ids, offsets = encoded.ids[: max(most, 0)], encoded.offsets
        while ids and len(ids) < len(offsets) and _broken(text, offsets[len(ids) - 1][1], offsets[len(ids)][0]):
            ids.pop()
        for begin, end in whole:
            if ids and begin < offsets[len(ids) - 1][1] < end:
                ids = [token for token, (_, its_end) in zip(ids, offsets, strict=False) if its_end <= begin]
        return tuple(ids)

    def _add_prompt(self, sequence: _Sequence, prompt: str, begin: tuple[int, ...]) -> None:
        sequence.add(begin)
        for number, piece in enumerate(prompt.split(IMAGE_PLACE)):
            if number:
                sequence.add(self._slots)
            if piece:
                sequence.add(self._ids(piece))

    def _padded(self, sequences: Sequence[_Sequence], left: bool) -> Texts:
        length = max(len(sequence.ids) for sequence in sequences)
        shape = (len(sequences), length)
        ids, mask, labels = np.full(shape, self._pad), np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX)
        for row, sequence in enumerate(sequences):
            here = slice(length - len(sequence.ids), None) if left else slice(len(sequence.ids))
            ids[row, here], mask[row, here], labels[row, here] = sequence.ids, 1, sequence.labels
            mask[row, sequence.unseen] = 0
        return Texts(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels))


def _broken(text: str, end: int, following: int) -> bool:
    """Whether tokens up to `end` and from `following` on share a character, or what is shown as one: a letter and its
    accents, an Indic cluster, emoji that are joined or tinted, the two letters of a flag."""
    if following < end:
        return True
    before, after = text[:end], text[end : end + 1]
    if not before or not after:
        return False
    if _JOINER in (before[-1], after) or unicodedata.combining(before[-1]) == _VIRAMA:
        return True
    if after in _FLAG_LETTERS:
        return (len(before) - len(before.rstrip(_FLAG_LETTERS))) % 2 == 1
    return after in _TINTS or unicodedata.category(after).startswith("M")
