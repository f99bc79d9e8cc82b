"""Scores: strict and lenient rules, intervals, chance levels, and published results."""

import csv
import json
from pathlib import Path

import pytest

from tinygptv.evaluate import captions
from tinygptv.evaluate.boxes import iou
from tinygptv.evaluate.metrics import Truth, by_group, chance, interval, mark, score, spread, wilson

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


def test_boxes_overlap_by_area() -> None:
    assert iou((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert iou((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)) == 0
    assert iou((0.5, 0, 0, 1), (0, 0, 1, 1)) == 0


def test_referring_reports_overlap_accuracy_and_unparsed_answers() -> None:
    truth = Truth((), box=(0.0, 0.0, 0.5, 0.5), image_size=(100, 100))
    found = score("referring_iou", ["{<0><0><50><50>}", "{<0><0><25><50>}", "{<60><60><90><90>}", "there"], [truth] * 4)
    assert (found.value, found.unparsed, found.n) == (0.5, 1, 4)
    assert found.extra["mean_iou"] == pytest.approx(1.5 / 4)


def test_the_inclusive_pixel_convention_of_the_reference_favours_small_images() -> None:
    truth = Truth((), box=(0.0, 0.0, 0.5, 1.0), image_size=(10, 10))
    judged = mark("referring_iou", "{<0><0><100><90>}", truth)
    assert (judged.strict, judged.lenient) == (0, 1)


def test_a_corpus_of_right_captions_scores_one_and_of_empty_ones_zero() -> None:
    truths = [Truth(("a small red circle at the top", "a red circle")), Truth(("two blue stars on the left",))]
    assert score("caption_bleu", [truth.answers[0] for truth in truths], truths).value == pytest.approx(1.0)
    empty = score("caption_bleu", ["", ""], truths)
    assert (empty.value, empty.unparsed, empty.lenient) == (0, 2, None)


def test_summed_counts_give_the_library_corpus_score(shared: Path) -> None:
    from sacrebleu.metrics import BLEU

    folder = shared / "data/oracles/nlg_eval"
    answers, first, second = ((folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2"))
    ours = captions.bleu(captions.count(*row) for row in zip(answers, zip(first, second, strict=True), strict=True))
    assert ours == pytest.approx(BLEU(lowercase=True).corpus_score(answers, [first, second]).score / 100)


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
