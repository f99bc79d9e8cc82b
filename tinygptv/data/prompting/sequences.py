"""Rendered turns → token ids, attention mask and labels. B samples, T tokens (text and image slots).

A sequence is, turn by turn: the BOS token where the template starts with it, the prompt's pieces with image slots
between them, and the answer with its end symbol. A prompt's pieces are tokenized separately, an answer together with
its end symbol, all without automatic special tokens; only answers and their ends have labels. Masks follow from
lengths, never from ids. Source: TinyGPT-V `minigpt_base.py`, `preparing_embedding` and `tokenize_conversation`; its
accidental deviations from this are reproduced by a stage's `oddities`. Special tokens in samples are escaped: see
`special_tokens`.
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
from tinygptv.data.prompting.special_tokens import MARK, SpecialTokenEscaper
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_PLACE, IMAGE_SLOT, Sample, Turn

_JOINER, _VIRAMA = "\u200d", 9  # zero-width joiner; combining class of signs that join Indic consonants
_TINTS = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))


class Texts(NamedTuple):
    """input_ids, attention_mask, labels (B, T) int64; labels are IGNORE_INDEX where there is no loss."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(slots=True)
class _Sequence:
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)
    """Positions that are masked from attention."""

    def add(self, ids: Sequence[int], learned: bool = False) -> None:
        self.ids += ids
        self.labels += ids if learned else [IGNORE_INDEX] * len(ids)


class Sequences:
    """Turns → Texts, for one tokenizer, one stage's inputs and `num_image_tokens` slots per image.

    Generation stops at the end symbol of the inputs or at any of `extra_stop_strings`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        inputs: Inputs,
        num_image_tokens: int,
        extra_stop_strings: Sequence[str] = (),
    ) -> None:
        if tokenizer.bos_token_id is None and inputs.begin != "never":
            raise DefinitionError(f"inputs.begin is '{inputs.begin}' but the tokenizer has no BOS token; use 'never'")
        if inputs.ends_with_eos and tokenizer.eos_token_id is None:
            raise DefinitionError(
                "inputs.ends_with_eos: the tokenizer has no EOS token; remove the setting, or add the token"
            )
        self.inputs = inputs
        backend = tokenizer.backend_tokenizer
        self._decode = functools.partial(backend.decode, skip_special_tokens=True)
        self.escaper = SpecialTokenEscaper(tokenizer, inputs)
        self._encode = self.escaper.encode
        self._ids = functools.lru_cache(maxsize=2**16)(lambda text: tuple(self._encode(text).ids))
        self._begin = () if inputs.begin == "never" else (int(tokenizer.bos_token_id),)
        self._begin_later = self._begin if inputs.begin == "every_turn" else ()
        self._eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self._symbol = self._ids(inputs.end_symbol)
        self._extra_stops = [self._ids(end) for end in extra_stop_strings]
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
        """The number of slots per image."""
        return len(self._slots)

    def as_text(self, sample: Sample) -> Sample:
        """The sample, with special tokens of the tokenizer escaped, ready for rendering."""
        return self.escaper.escape_sample(sample)

    def images(self, input_ids: Tensor) -> list[int]:
        """The number of images in each row of (B, T) ids."""
        return ((input_ids == IMAGE_SLOT).sum(dim=1) // len(self._slots)).tolist()

    @property
    def stops(self) -> list[tuple[int, ...]]:
        """Token sequences that stop generation: a whole end symbol, or EOS.

        A single token of a longer end symbol is ordinary text and does not stop generation. EOS after an end symbol is
        not awaited, since the answer is already complete.
        """
        written = self._symbol[:-1] if self._symbol[-1:] == self._eos else self._symbol
        return [stop for stop in (written, *self._extra_stops, self._eos) if stop]

    def answer(self, written: Sequence[int]) -> str:
        """Decode generated ids: text without special tokens, up to the first end symbol."""
        text = str(self._decode(written))
        for symbol in (self._symbol, *self._extra_stops):
            if end := str(self._decode(symbol)):
                text = text.split(end, maxsplit=1)[0]
        return text.strip()

    def length(self, turns: Sequence[Turn]) -> int:
        """Tokens and image slots of a conversation in training."""
        return len(self._conversation(turns).ids)

    def ends_early(self, answer: str) -> bool:
        """Whether a model that repeats this answer verbatim would be cut off before its end."""
        text, end = answer.replace(MARK, "").rstrip(), self.end_text
        return bool(end) and (text + end).find(end) < len(text)

    @property
    def end_text(self) -> str:
        """The end symbol as text, without its special tokens, which text never produces."""
        return str(self._decode(self._symbol))

    def training(self, conversations: Iterable[Sequence[Turn]]) -> Texts:
        """Right-padded, with labels; each conversation holds turns rendered by `prompts.render`."""
        return self._padded([self._conversation(turns) for turns in conversations], left=False)

    def prompts(self, prompts: Iterable[str]) -> Texts:
        """Left-padded prompts without labels, so that every answer starts after the last column."""
        return self._padded([self._prompt_sequence(prompt) for prompt in prompts], left=True)

    def prompt_length(self, prompt: str) -> int:
        """Tokens and image slots of a prompt for generation."""
        return len(self._prompt_sequence(prompt).ids)

    def _prompt_sequence(self, prompt: str) -> _Sequence:
        sequence = _Sequence()
        self._add_prompt(sequence, prompt, () if "no_bos_when_asking" in self.inputs.oddities else self._begin)
        return sequence

    def _conversation(self, turns: Sequence[Turn]) -> _Sequence:
        """Everything after the first prompt has at most `max_text_tokens`: an answer that does not fit is cut before
        its end symbol, and before any box that would be split; turns without room are dropped. Under `end_symbol_cut`
        the sequence is simply cut off, but never inside an image."""
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
        """At most `most` tokens of a text, without splitting a character or any of the spans in `whole`."""
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
    """Whether a cut between `end` and `following` splits a character or a grapheme: a letter with accents, an Indic
    cluster, joined or tinted emoji, the two letters of a flag."""
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
