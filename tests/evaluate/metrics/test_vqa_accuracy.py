"""VQA accuracy: input/output tables, and every score of two published models' answers."""

import ast
import csv
from pathlib import Path

import pytest

from tinygptv.errors import DataError
from tinygptv.evaluate.metrics.vqa_accuracy import normalise, vqa_accuracy


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_each_human_is_compared_with_the_nine_others(agreeing: int, expected: float) -> None:
    answers = ["red"] * agreeing + [f"other{number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("red", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two Dogs", "2 dogs"),
        ("the red, car", "red car"),
        ("black/white", "black white"),
        ("dont know", "don't know"),
        ("couldn'tve", "couldn't've"),
        ("2.5", "2.5"),
        ("1. first", "1 first"),
        ("1,000", "1000"),
        ("none", "0"),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_humans_are_normalised_only_when_they_disagree() -> None:
    assert vqa_accuracy("yes", ["yes."] * 10) == 0.0
    assert vqa_accuracy("yes", ["yes."] * 9 + ["no"]) == 1.0


def test_a_number_word_all_agree_on_counts_as_written() -> None:
    assert vqa_accuracy("two", ["two"] * 10) == 1.0


def test_equal_answers_of_different_humans_are_not_one_human() -> None:
    assert vqa_accuracy("yes", ["yes"] * 10) == 1.0


def test_too_few_human_answers_are_refused() -> None:
    with pytest.raises(DataError, match="exact_match"):
        vqa_accuracy("red", ["red"])


@pytest.mark.parametrize("model", ["base", "moe"])
def test_every_published_score_is_reproduced(shared: Path, model: str) -> None:
    with (shared / "data/oracles/vqa_accuracy/vqa_two_models.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    ours = [100 * vqa_accuracy(row[f"{model}_pred"], ast.literal_eval(row["gt_answer"])) for row in rows]
    assert ours == pytest.approx([float(row[f"{model}_acc"]) for row in rows], abs=0.01)


def test_the_official_mean_on_real_answers_is_reproduced(shared: Path) -> None:
    with (shared / "data/oracles/vqa_accuracy/okvqa_predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    ours = [100 * vqa_accuracy(row["pred"], ast.literal_eval(row["gt_answer"])) for row in rows]
    assert sum(ours) / len(ours) == pytest.approx(58.82907467129745)
