"""Boxes as text: how each family of models writes them, and the phrase in front of them, and reads them back.

Samples hold their boxes twice: exactly, as fractions of width and height, and in their texts in the `percent` form,
which the published annotation files use. A family with another form has the texts rewritten from the exact values.
Sources: MiniGPT-v2 `coco_dataset.py` and its demo; CogVLM `utils/utils/grounding_parser.py`; Qwen-VL
`eval_mm/evaluate_grounding.py`; LLaVA-1.5 `llava_v1_5_mix665k.json`, as quoted in WisconsinAIVision/ViP-LLaVA#23.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tinygptv.definitions.template import BoxForm

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of width and height."""


@dataclass(frozen=True)
class BoxCodec:
    """`number` is what is written for a fraction; a number over `unit` is a fraction again.

    Several boxes of one phrase are `one`s joined by `separator` inside `around`, after the `phrase`.
    """

    number: Callable[[float], float]
    unit: int
    one: str
    separator: str
    around: str
    phrase: str
    pattern: re.Pattern[str]
    """One box, its four numbers as groups."""
    run: re.Pattern[str]
    """All boxes of one phrase."""

    def write(self, *boxes: Box) -> str:
        """Boxes of one phrase as this family's text."""
        return self.around % self.separator.join(self.one % tuple(map(self.number, box)) for box in boxes)

    def read(self, text: str) -> Iterator[Box]:
        """Every box in a text, in order. Spaces are overlooked."""
        for found in self.pattern.finditer(text.replace(" ", "")):
            x0, y0, x1, y1 = (float(edge) / self.unit for edge in found.groups())
            yield x0, y0, x1, y1

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the boxes of each phrase begin and end."""
        return [found.span() for found in self.run.finditer(text)]


_PERCENT = r"\{<\d{1,3}><\d{1,3}><\d{1,3}><\d{1,3}>\}"
_COGVLM = r"\d{1,3},\d{1,3},\d{1,3},\d{1,3}"
_FRACTION = r"[01](?:\.\d+)?"
_FRACTIONS = r"\[" + ", ".join([_FRACTION] * 4) + r"\]"
_QWEN = r"<box>\(\d{1,3},\d{1,3}\),\(\d{1,3},\d{1,3}\)</box>"

CODECS: dict[BoxForm, BoxCodec] = {
    "percent": BoxCodec(
        number=lambda edge: int(edge * 100),
        unit=100,
        one="{<%d><%d><%d><%d>}",
        separator="<delim>",
        around="%s",
        phrase="<p>%s</p> ",
        pattern=re.compile(_PERCENT.replace(r"\d{1,3}", r"(\d{1,3})")),
        run=re.compile(f"{_PERCENT}(?:<delim>{_PERCENT})*"),
    ),
    "cogvlm": BoxCodec(
        number=lambda edge: min(int(edge * 1000), 999),
        unit=1000,
        one="%03d,%03d,%03d,%03d",
        separator=";",
        around="[[%s]]",
        phrase="%s ",
        pattern=re.compile(r"(?:(?<=\[\[)|(?<=;))" + _COGVLM.replace(r"\d{1,3}", r"(\d{1,3})") + r"(?=\]\]|;)"),
        run=re.compile(rf"\[\[{_COGVLM}(?:;{_COGVLM})*\]\]"),
    ),
    "qwen_vl": BoxCodec(
        number=lambda edge: round(edge * 999),
        unit=999,
        one="<box>(%d,%d),(%d,%d)</box>",
        separator="",
        around="%s",
        phrase="<ref>%s</ref>",
        pattern=re.compile(_QWEN.replace(r"\d{1,3}", r"(\d{1,3})")),
        run=re.compile(f"(?:{_QWEN})+"),
    ),
    "fractions": BoxCodec(
        number=lambda edge: round(edge, 2),
        unit=1,
        one="[%s, %s, %s, %s]",
        separator=", ",
        around="%s",
        phrase="%s ",
        pattern=re.compile(r"\[" + ",".join([f"({_FRACTION})"] * 4) + r"\]"),
        run=re.compile(rf"{_FRACTIONS}(?:, {_FRACTIONS})*"),
    ),
}
"""`percent`: MiniGPT-v2 and TinyGPT-V, integers 0..100, truncated. `cogvlm`: 000..999, truncated. `qwen_vl`: integers
in [0, 1000), of which its evaluation makes fractions of 999, so they are rounded to that. `fractions`: LLaVA-1.5, two
digits, as Python prints them; its boxes are measured on pictures padded to a square."""

_PHRASE = re.compile(rf"<p>((?:(?!</?p>).)*)</p>\s*(?={_PERCENT})")
"""In front of a box alone: elsewhere `<p>` is a paragraph of a text about the web."""


def box_text(box: Box) -> str:
    """Fractions of width and height as `{<x0><y0><x1><y1>}`: integers 0..100, truncated."""
    return CODECS["percent"].write(box)


def read_box(text: str) -> Box | None:
    """The first box in a model's answer, in whichever family's form, as fractions; None if there is none."""
    return next((box for codec in CODECS.values() for box in codec.read(text)), None)


def respell(texts: Sequence[str], boxes: Sequence[Box], form: BoxForm) -> list[str]:
    """A sample's texts with every box, and `<p>phrase</p>` in front of it, in another form, from the exact `boxes` if
    these are all that the texts hold."""
    if form == "percent":
        return list(texts)
    percent, codec = CODECS["percent"], CODECS[form]
    written = [box for text in texts for box in percent.read(text)]
    left = iter(boxes if len(boxes) == len(written) else written)

    def again(found: re.Match[str]) -> str:
        return codec.write(*(next(left) for _ in percent.read(found.group())))

    phrases = [_PHRASE.sub(lambda found: codec.phrase % found[1], text) for text in texts]
    return [percent.run.sub(again, text) for text in phrases]
