"""Which objects of the drawn world a caption names, and how well that agrees with another caption.

What CHAIR asks of COCO captions, in both directions: a thing that is named and not there costs precision, one that is
there and not named costs recall. An object is a colour and a kind; sizes and places are left to BLEU.
"""

import re
from collections import Counter
from collections.abc import Iterable

from tinygptv.shapes.language import NUMBERS
from tinygptv.shapes.scenes import COLOURS, KINDS, SIZES

Objects = Counter[tuple[str, str]]
"""How many of each colour (empty where none is said) and kind."""

_OBJECT = re.compile(
    rf"\b(?:(?P<number>{'|'.join(NUMBERS)}) )?(?:(?:{'|'.join(SIZES)}) )?"
    rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<kind>{'|'.join(KINDS)})(?:e?s)?\b"
)


def named_objects(caption: str) -> Objects:
    """`two circles and a small red star` names two circles of no colour and one red star."""
    found: Objects = Counter()
    for phrase in _OBJECT.finditer(caption.lower()):
        found[phrase["colour"] or "", phrase["kind"]] += NUMBERS.index(phrase["number"]) if phrase["number"] else 1
    return found


def object_f1(caption: str, references: Iterable[str]) -> float:
    """F1 of the objects of a caption against the reference it agrees with best, 0..1."""
    named = named_objects(caption)
    return max((_f1(named, named_objects(reference)) for reference in references), default=0.0)


def _f1(named: Objects, true: Objects) -> float:
    total = named.total() + true.total()
    return 2 * (named & true).total() / total if total else 0.0
