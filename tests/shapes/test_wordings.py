"""The same question in other words: still about the same thing, in many forms, and some kept back."""

import random

import pytest

from tinygptv.shapes import language
from tinygptv.shapes.scenes import scene
from tinygptv.shapes.wordings import TRIED, WORDINGS, reworded

SEEN = 200


@pytest.mark.parametrize("kind", list(language.ASKING))
def test_a_reworded_question_is_about_the_same_in_each_of_its_wordings(kind: str) -> None:
    rng, texts = random.Random(kind), set()
    for index in range(SEEN):
        question = language.ASKING[kind](scene("train", index), rng)
        if question is None:
            continue
        said = reworded(question, rng)
        assert question.about in said.lower()
        texts.add(said.lower().removesuffix("?").replace("colour", "color").replace(question.about, "{}", 1))
    assert texts == {wording.removesuffix("?") for wording in WORDINGS[kind]}


def test_colour_is_spelled_in_both_ways_and_questions_come_without_their_mark_or_with_a_capital() -> None:
    question = language.Question("what color is the circle?", "red", "colour", "circle")
    texts = [reworded(question, random.Random(index)) for index in range(SEEN)]
    assert 0.3 < sum("colour" in text for text in texts) / len(texts) < 0.7
    assert 0 < sum(text[0].isupper() for text in texts) < len(texts) / 2
    assert any(text.startswith("what color is") and not text.endswith("?") for text in texts)


def test_the_last_wording_of_each_kind_that_is_tried_is_never_trained() -> None:
    for kind, wordings in TRIED.items():
        trained = {wording.replace("color", spelling) for wording in WORDINGS[kind] for spelling in ("color", "colour")}
        assert len(wordings) >= 3
        assert set(wordings[:-1]) & trained
        assert wordings[-1] not in trained
