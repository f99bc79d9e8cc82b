"""Special tokens that data happen to write are read as the text they are; those of a template keep their meaning.

A tokenizer finds its special tokens in any text, so a caption that quotes `<|endoftext|>` would end there. Here a mark
goes into each of them as long as they are data: the tokenizer then finds nothing, and a copy of it cuts the text at the
mark, so that not even its vocabulary can give the special token back. Boxes, which a family may write in tokens of
their own, stay as they are.
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
"""A code point that Unicode promises never to make a character."""
_REPLACEMENT = "\ufffd"


class LiteralText:
    """Marks the special tokens in data, and encodes text with marks in it, for one tokenizer and one stage's inputs.

    Special are the tokens that the tokenizer calls so, and any other that was added to it if the inputs' template is
    written in it: a token of several spaces is a word like others. One of a single character cannot be taken apart.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> None:
        template = "\n".join(_written(inputs))
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special or token.content in template}
        special = (special | set(tokenizer.all_special_tokens)) - {IMAGE_PLACE}
        self.special = sorted((token for token in special if len(token.strip()) > 1), key=lambda token: -len(token))
        """Longest first."""
        # In any case: short answers are made lower case afterwards.
        self._pattern = re.compile("|".join(map(re.escape, self.special)), re.IGNORECASE) if self.special else None
        self._boxes = re.compile("|".join(_with_phrase(CODECS[form]) for form in ("percent", inputs.boxes)))
        self._plain: Tokenizer = tokenizer.backend_tokenizer

    def encode(self, text: str) -> Encoding:
        """Tokens without those that a tokenizer adds by itself; of marks nothing is left."""
        return (self._cutting if MARK in text else self._plain).encode(text, add_special_tokens=False)

    @functools.cached_property
    def _cutting(self) -> Tokenizer:
        return _cutting_at_marks(self._plain)  # seconds, for a large vocabulary, and mostly never needed

    def sample(self, sample: Sample) -> Sample:
        """The sample with marks in its turns and accepted answers; mostly the same one."""
        turns = tuple(Turn(self.text(turn.instruction), self.text(turn.answer)) for turn in sample.turns)
        answers = tuple(map(self.text, sample.answers))
        unchanged = turns == sample.turns and answers == sample.answers
        return sample if unchanged else replace(sample, turns=turns, answers=answers)

    def text(self, text: str) -> str:
        """Data with a mark in each special token outside boxes. What looks like a mark already is replaced."""
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
        while self._pattern.search(text):  # again, for one may lie within another
            text = self._pattern.sub(lambda found: f"{found[0][0]}{MARK}{found[0][1:]}", text)
        return text


def _written(inputs: Inputs) -> Iterator[str]:
    """Everything that a template writes around data."""
    yield from (inputs.system, inputs.image, inputs.after_image, inputs.bare_image, inputs.end_symbol)
    yield from (text for text in (inputs.template, inputs.later_template, inputs.asking_template) if text)
    for wordings in inputs.wordings.values():
        yield from wordings


def _with_phrase(codec: BoxCodec) -> str:
    """The pattern of a phrase's boxes, with the phrase in front of them where a family marks it."""
    before, after = codec.phrase.split("%s")
    phrase = rf"(?:{re.escape(before)}[^<]*{re.escape(after.strip())}\s*)?" if before else ""
    return f"(?:{phrase}{codec.run.pattern})"


def _cutting_at_marks(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that drops marks after it has cut the text into words, and cuts there too."""
    cutting = copy.deepcopy(tokenizer)
    # A byte-level tokenizer spells bytes in letters before words are looked up.
    ((spelled, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(MARK)
    at_marks = Split(Regex(f"{MARK}|{spelled}"), "removed")
    before = cutting.pre_tokenizer
    cutting.pre_tokenizer = at_marks if before is None else InOrder([before, at_marks])
    return cutting
