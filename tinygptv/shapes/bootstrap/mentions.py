"""Which objects of a scene a text speaks of, word by word: what a reader has to know when it gets there.

After `is the small red` that is every small red object, after `circle` every small red circle. The language model is
asked for it along the way, which teaches it to find things in a picture long before answers alone would.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tinygptv.shapes import language
from tinygptv.shapes.scenes import COLOURS, KINDS, SIZES, Scene, SceneObject

_PART_OF = {word: part for part, words in language.CHOICES.items() for word in words}
_PART_OF |= {language.plural(kind, 2): "kind" for kind in KINDS}
_SINGULAR = {language.plural(kind, 2): kind for kind in KINDS}
_PLACES = sorted((place for row in language.PLACES for place in row), key=len, reverse=True)
_LINKS = ("at the", "on the", "in the")  # between an object and its place
_WORD = re.compile(
    rf"(?P<place>\b(?:{'|'.join(_PLACES)})\b(?! of\b))"
    rf"|(?P<noun>(?<!\b[Ww]hat )(?<!\b[Ww]hich )(?<!kind of )(?<!type of )\bshapes?\b(?! of\b))"
    rf"|(?P<attribute>\b(?:{'|'.join((*SIZES, *COLOURS, *sorted(_SINGULAR), *KINDS))})\b)"
)


@dataclass(frozen=True)
class Mention:
    """The objects that fit everything said of something up to the character `end`."""

    end: int
    objects: tuple[SceneObject, ...]


def mentions(text: str, scene: Scene) -> Iterator[Mention]:
    """A mention after every word that narrows what is spoken of: size, colour, kind, `shape`, place."""
    said: dict[str, str] = {}
    last = 0
    for word in _WORD.finditer(text):
        between, last = text[last : word.start()].strip(), word.end()
        what = word.group()
        part = "place" if word["place"] else "kind" if word["noun"] else _PART_OF[what]
        named = "kind" in said and part != "place"  # a noun ends a phrase; only its place may follow
        if (between and between not in _LINKS) or named or part in said:
            said = {}
        said[part] = _SINGULAR.get(what, what)
        yield Mention(last, tuple(thing for thing in scene.objects if _fits(thing, said)))


def _fits(thing: SceneObject, said: dict[str, str]) -> bool:
    return all(
        word in ("shape", "shapes") or (language.place(thing) if part == "place" else getattr(thing, part)) == word
        for part, word in said.items()
    )
