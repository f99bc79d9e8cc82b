"""The objects a caption names: every style of the drawn world is read, and errors cost on either side."""

import random

import pytest

from tinygptv.evaluate.metric import Truth
from tinygptv.evaluate.scoring import chance, score
from tinygptv.shapes import language
from tinygptv.shapes.objects import named_objects, object_f1
from tinygptv.shapes.scenes import scene

BOTH = "a small red circle at the top, a large blue star on the left"


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        (BOTH, {("red", "circle"): 1, ("blue", "star"): 1}),
        ("A red circle and a red circle", {("red", "circle"): 2}),
        ("three shapes: two crosses and one square", {("", "cross"): 2, ("", "square"): 1}),
        ("an orange triangle above the large star", {("orange", "triangle"): 1, ("", "star"): 1}),
        ("red blue and starry, a circular thing", {}),
        ("", {}),
    ],
)
def test_objects_are_read_from_every_style(caption: str, objects: dict[tuple[str, str], int]) -> None:
    assert named_objects(caption) == objects


def test_full_and_short_captions_name_exactly_the_objects_of_their_scene() -> None:
    for index in range(100):
        picture, rng = scene("train", index), random.Random(index)
        truth = sorted((thing.colour, thing.kind) for thing in picture.objects)
        for write in (language.full_caption, language.short_caption):
            assert sorted(named_objects(write(picture, rng)).elements()) == truth


@pytest.mark.parametrize(
    ("answer", "f1"),
    [
        (BOTH, 1.0),
        ("a blue star and a red circle", 1.0),
        ("two shapes: one circle and one star", 1.0),
        ("a red circle", 2 / 3),
        ("a red circle, a blue star and a green cross", 4 / 5),
        ("a red star and a blue circle", 0.0),
        ("one shape", 0.0),
        ("", 0.0),
    ],
)
def test_what_is_invented_left_out_or_mixed_up_costs(answer: str, f1: float) -> None:
    assert object_f1(answer, [BOTH, "two shapes: one circle and one star"]) == pytest.approx(f1)


def test_the_score_is_the_mean_over_captions_and_a_constant_caption_gets_its_share() -> None:
    truths = [Truth((BOTH,)), Truth(("a green cross",))]
    found = score("object_f1", ["a red circle", "nothing"], truths)
    assert (found.value, found.unparsed, found.lenient) == (pytest.approx(1 / 3), 1, None)
    assert chance("object_f1", truths) == pytest.approx(1 / 2)
