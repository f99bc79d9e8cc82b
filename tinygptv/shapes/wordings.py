"""The same question in other words, as people who did not write the corpus may ask it. Pure in (question, rng).

`language` asks in one or two wordings. What models are trained on is `reworded`, and the held-out questions are asked
in every wording of TRIED, some of which no training ever uses: a model that knows only its own words is found out.
"""

import random

from tinygptv.shapes.language import Question

WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "what color is the {}?",
        "what is the color of the {}?",
        "what's the color of the {}?",
        "which color is the {}?",
        "which color does the {} have?",
        "what color does the {} have?",
        "name the color of the {}",
        "tell me the color of the {}",
        "the {} is what color?",
    ),
    "kind": (
        "what shape is the {}?",
        "what is the shape of the {}?",
        "which shape is the {}?",
        "which shape does the {} have?",
        "what kind of shape is the {}?",
        "which kind of shape is the {}?",
        "what type of shape is the {}?",
        "name the shape of the {}",
        "tell me what the {} is",
    ),
    "count": (
        "how many {} are there?",
        "how many {} do you see?",
        "how many {} are in the picture?",
        "count the {}",
        "count the {} in the picture",
        "what is the number of {}?",
        "give the number of {}",
        "tell me how many {} there are",
    ),
    "position": (
        "where is the {}?",
        "where do you see the {}?",
        "where in the picture is the {}?",
        "what is the position of the {}?",
        "in which part of the picture is the {}?",
        "tell me where the {} is",
    ),
    "yes_no": (
        "is there {}?",
        "do you see {}?",
        "can you see {}?",
        "does the picture show {}?",
        "is {} in the picture?",
    ),
}
"""What is asked in training, by kind of question; "color" also as "colour"."""

TRIED: dict[str, tuple[str, ...]] = {
    "colour": (
        "what color is the {}?",
        "what colour is the {}?",
        "which color is the {}?",
        "what is the colour of the {}?",
        "say which colour the {} is",
    ),
    "kind": (
        "what shape is the {}?",
        "which shape is the {}?",
        "what kind of shape is the {}?",
        "which type of shape is the {}?",
    ),
    "count": (
        "how many {} are there?",
        "count the {}",
        "what is the number of {}?",
        "how many {} can you count?",
    ),
    "position": (
        "where is the {}?",
        "what is the position of the {}?",
        "where in the image is the {}?",
    ),
}
"""How held-out questions are asked; the last of each kind is never trained."""

TAG = "[vqa] "
"""Before a question that wants a short answer; people leave it out."""

_SPELLINGS = ("color", "colour")
_CAPITAL, _NO_MARK = 0.1, 0.15


def reworded(question: Question, rng: random.Random) -> str:
    """A question in one of its WORDINGS and either spelling, at times with a capital or without a question mark."""
    text = rng.choice(WORDINGS[question.kind]).replace(_SPELLINGS[0], rng.choice(_SPELLINGS)).format(question.about)
    if rng.random() < _CAPITAL:
        text = text[0].upper() + text[1:]
    return text.removesuffix("?") if rng.random() < _NO_MARK else text
