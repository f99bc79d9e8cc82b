"""Scores: strict and lenient rules, intervals, chance levels, and published results."""

import csv
import json
from pathlib import Path

import pytest

from tinygptv.evaluate.metric import Truth, interval, wilson
from tinygptv.evaluate.scoring import by_group, chance, mark, score, spread

TRUE, FALSE = Truth(("true",)), Truth(("false",))


@pytest.mark.parametrize(
    ("answer", "strict", "lenient", "parsed"),
    [
        ("true", 1, 1, True),
        ("True.", 1, 1, True),
        ("false", 0, 0, True),
        ("true or false", 1, 1, True),
        ("it is true", 0, 1, False),
        ("yes", 0, 0, False),
        ("", 0, 0, False),
    ],
)
def test_a_statement_is_judged_by_its_first_word(answer: str, strict: int, lenient: int, parsed: bool) -> None:
    judged = mark("true_false_accuracy", answer, TRUE)
    assert (judged.strict, judged.lenient, judged.parsed) == (strict, lenient, parsed)


def test_only_the_lenient_rule_accepts_an_answer_that_says_both() -> None:
    judged = mark("true_false_accuracy", "true or false", FALSE)
    assert (judged.strict, judged.lenient) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [("No", 1, 1), ("no.", 1, 1), ("not sure", 0, 1), ("yes", 0, 0), ("", 0, 0)],
)
def test_exact_match_does_not_search_inside_words(answer: str, strict: int, lenient: int) -> None:
    judged = mark("exact_match", answer, Truth(("no",)))
    assert (judged.strict, judged.lenient) == (strict, lenient)


def test_an_empty_answer_is_right_only_under_the_reference_rule() -> None:
    judged = mark("vqa_accuracy", "", Truth(("red",) * 10))
    assert (judged.strict, judged.lenient, judged.parsed) == (0, 1, False)


def test_chance_is_the_best_constant_answer_of_each_group() -> None:
    colours = [Truth((answer,), group="colour") for answer in ["red"] * 15 + ["blue"] * 15]
    counts = [Truth((answer,), group="count") for answer in ["two"] * 24 + ["three"] * 6]
    assert chance("exact_match", colours + counts) == pytest.approx((15 + 24) / 60)


def test_small_groups_are_pooled_for_the_chance_level() -> None:
    truths = [Truth(("true" if number % 2 else "false",), group=f"statement {number}") for number in range(40)]
    assert chance("true_false_accuracy", truths) == 0.5


def test_chance_works_for_boxes_and_captions() -> None:
    boxes = [Truth((), box=(0, 0, 0.5, 0.5))] * 3 + [Truth((), box=(0.5, 0.5, 1, 1))]
    assert chance("referring_iou", boxes) == 0.75
    assert chance("caption_bleu", [Truth(("a red circle and a blue star",))] * 3) == pytest.approx(1.0)


def test_intervals_contain_the_mean_and_stay_within_zero_and_one() -> None:
    assert wilson(0, 20)[0] == 0 and 0.1 < wilson(0, 20)[1] < 0.2
    low, high = interval([0.3, 0.6, 1.0, 0.0] * 30)
    assert low < 0.475 < high
    assert interval([]) == (0.0, 1.0)


def test_exact_match_reproduces_a_published_gqa_accuracy(shared: Path) -> None:
    folder = shared / "data/oracles/gqa"
    with (folder / "testdev_balanced_gt_and_two_models.csv").open() as stream:
        truths = {row["question_id"]: Truth((row["gt_ans"],)) for row in csv.DictReader(stream)}
    with (folder / "llava-v1.5-13b.jsonl").open() as stream:
        answers = {record["question_id"]: record["text"] for record in map(json.loads, stream)}
    found = score("exact_match", [answers[key] for key in truths], list(truths.values()))
    assert 100 * found.value == pytest.approx(63.51824087956022)


def test_groups_are_scored_separately_and_their_spread_is_within_a_kind() -> None:
    truths = [Truth(("red",), group=f"colour/{form}") for form in "aabb"]
    truths += [Truth(("two",), group="count/a")]
    scores = by_group("exact_match", ["red", "red", "red", "blue", "four"], truths)
    assert scores == {"colour/a": 1.0, "colour/b": 0.5, "count/a": 0.0}
    assert spread(scores) == 0.5
