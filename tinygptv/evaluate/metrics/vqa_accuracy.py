"""VQA soft accuracy exactly as the official evaluator computes it, bugs included.

Source: VQAEval of github.com/GT-Vision-Lab/VQA. Its bugs affect scores, so they are reproduced:

- The model's answer is always normalised; human answers only in their punctuation, and only if they disagree. So the
  answer `none`, which becomes `0`, cannot match a human's `none`.
- The pattern that should protect the period in `2.5` checks only the character after it.
- At most 32 periods of an answer are removed, because a regex flag is passed as the count.

The script handles only ASCII. Texts with other characters are passed through `comparable` first.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar

from tinygptv.errors import DataError
from tinygptv.evaluate.metric import Mark, Metric, Truth
from tinygptv.evaluate.texts import comparable

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIODS_REMOVED = 32
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
    when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
MIN_ANSWERS = 4
"""Human answers per item; with fewer, no answer could score 1."""
_TOO_FEW = "too_few_answers"


class VqaAccuracy(Metric):
    """Partial marks: how many humans gave the answer."""

    title = "VQA accuracy"
    advice: ClassVar[Mapping[str, str]] = {_TOO_FEW: "`metric: exact_match` scores items of fewer answers"}

    def unscorable(self, truth: Truth) -> str | None:
        """See Metric."""
        return _TOO_FEW if len(truth.answers) < MIN_ANSWERS else None

    def mark(self, answer: str, truth: Truth) -> Mark:
        """See Metric."""
        said = comparable(answer).strip()
        # The reference's VizWiz rule: an answer inside a human's counts, so an empty one is always right.
        alike = sum(said in human or human in said for human in map(comparable, truth.answers))
        return Mark(vqa_accuracy(answer, truth.answers), min(alike / 3, 1.0), bool(said))


METRIC = VqaAccuracy()


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over humans of min(matches among the other humans / 3, 1): 0, 0.3, 0.6, 0.9, 1 for 0..4 matches of ten.

    Each human is left out by position, so that equal answers stay distinct. If all humans agree, the answer may also
    match before normalisation: published files never agree on `two`, other data does. Raises DataError for fewer than
    four answers.
    """
    if len(answers) < MIN_ANSWERS:
        raise DataError(
            f"VQA accuracy needs at least {MIN_ANSWERS} human answers, found {len(answers)}; "
            "score this benchmark with `metric: exact_match`"
        )
    prediction, *answers = (text if text.isascii() else comparable(text) for text in (prediction, *answers))
    written = prediction.replace("\n", " ").replace("\t", " ").strip()
    accepted = {normalise(written)}
    if len(set(answers)) > 1:
        answers = [_strip_punctuation(answer) for answer in answers]
    else:
        accepted.add(written)
    matches = [answer in accepted for answer in answers]
    total = sum(matches)
    return sum(min((total - own) / 3, 1.0) for own in matches) / len(matches)


def normalise(text: str) -> str:
    """Normalise punctuation, case, number words, articles and contractions like the official script."""
    words = [_DIGITS.get(word, word) for word in _strip_punctuation(text).lower().split()]
    restored = _contractions()
    return " ".join(restored.get(word, word) for word in words if word not in _ARTICLES)


def _strip_punctuation(text: str) -> str:
    stripped = text
    number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if touches_space or number else " ")
    return _PERIOD.sub("", stripped, count=_PERIODS_REMOVED)


@cache
def _contractions() -> dict[str, str]:
    """Contractions with one apostrophe missing → the correct spelling: `dont`, `couldnt've` and `couldn'tve`.

    `couldntve`, which lacks two, is not included. The official table also has a typo: `somebody'd` → `somebodyd`.
    """
    table = {"somebody'd": "somebodyd", "let's": "let's", "she's": "she's"}
    for word in _CONTRACTED.split():
        for position, letter in enumerate(word):
            if letter == "'":
                table[word[:position] + word[position + 1 :]] = word
    return table
