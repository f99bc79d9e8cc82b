"""Escape special tokens in data, so that they are read as text; those of a template keep their meaning.

A tokenizer recognises its special tokens in any text, so a caption that quotes `<|endoftext|>` would end there. Here a
mark is inserted into each special token in data: the tokenizer then no longer matches it, and a copy of the tokenizer
splits the text at the mark, so that its vocabulary cannot produce the special token either. Boxes, which a family may
write with tokens of their own, stay unchanged.
"""

import copy
import functools
import re
from collections.abc import Iterator
from dataclasses import replace

from tokenizers import Encoding, Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as InOrder
from transformers import PreTrainedTokenizerFast

from tinygptv.data.prompting.boxes import CODECS, BoxCodec
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import IMAGE_PLACE, Sample, Turn

MARK = "\ufdd0"
"""A Unicode noncharacter."""
_REPLACEMENT = "\ufffd"


class SpecialTokenEscaper:
    """Escapes special tokens in data and encodes escaped text, for one tokenizer and one stage's inputs.

    Special tokens are those that the tokenizer declares special, and other added tokens used in the inputs' template;
    an added token of several spaces is an ordinary word. A token of a single character cannot be split.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> None:
        template = "\n".join(_written(inputs))
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special or token.content in template}
        special = (special | set(tokenizer.all_special_tokens)) - {IMAGE_PLACE}
        self.special = sorted((token for token in special if len(token.strip()) > 1), key=lambda token: -len(token))
        """Longest first."""
        # Case-insensitive: short answers are converted to lower case later.
        self._pattern = re.compile("|".join(map(re.escape, self.special)), re.IGNORECASE) if self.special else None
        self._boxes = re.compile("|".join(_with_phrase(CODECS[form]) for form in ("percent", inputs.boxes)))
        self._plain: Tokenizer = tokenizer.backend_tokenizer

    def encode(self, text: str) -> Encoding:
        """Token ids without automatically added ones; marks are dropped."""
        return (self._cutting if MARK in text else self._plain).encode(text, add_special_tokens=False)

    @functools.cached_property
    def _cutting(self) -> Tokenizer:
        return _cutting_at_marks(self._plain)  # takes seconds for a large vocabulary, and is rarely needed

    def escape_sample(self, sample: Sample) -> Sample:
        """The sample with its turns and accepted answers escaped; usually the sample itself."""
        turns = tuple(Turn(self.escape(turn.instruction), self.escape(turn.answer)) for turn in sample.turns)
        answers = tuple(map(self.escape, sample.answers))
        unchanged = turns == sample.turns and answers == sample.answers
        return sample if unchanged else replace(sample, turns=turns, answers=answers)

    def escape(self, text: str) -> str:
        """Insert a mark into each special token outside boxes. Existing marks are replaced."""
        text = text.replace(MARK, _REPLACEMENT)
        if self._pattern is None or not self._pattern.search(text):
            return text
        pieces, begin = [], 0
        for box in self._boxes.finditer(text):
            pieces += [self._marked(text[begin : box.start()]), box.group()]
            begin = box.end()
        return "".join([*pieces, self._marked(text[begin:])])

    def _marked(self, text: str) -> str:
        assert self._pattern is not None
        while self._pattern.search(text):  # repeatedly, since tokens may overlap
            text = self._pattern.sub(lambda found: f"{found[0][0]}{MARK}{found[0][1:]}", text)
        return text


def _written(inputs: Inputs) -> Iterator[str]:
    """All text that a template puts around data."""
    yield from (inputs.system, inputs.image, inputs.after_image, inputs.bare_image, inputs.end_symbol)
    yield from (text for text in (inputs.template, inputs.later_template, inputs.asking_template) if text)
    for wordings in inputs.wordings.values():
        yield from wordings


def _with_phrase(codec: BoxCodec) -> str:
    """Pattern of a phrase's boxes, including the phrase where the family marks it."""
    before, after = codec.phrase.split("%s")
    phrase = rf"(?:{re.escape(before)}[^<]*{re.escape(after.strip())}\s*)?" if before else ""
    return f"(?:{phrase}{codec.run.pattern})"


def _cutting_at_marks(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that splits text at marks before looking up words, and drops the marks."""
    cutting = copy.deepcopy(tokenizer)
    # A byte-level tokenizer maps bytes to letters before words are looked up.
    ((spelled, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(MARK)
    at_marks = Split(Regex(f"{MARK}|{spelled}"), "removed")
    before = cutting.pre_tokenizer
    cutting.pre_tokenizer = at_marks if before is None else InOrder([before, at_marks])
    return cutting
