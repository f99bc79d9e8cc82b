import pytest

from tinygptv.evaluate.metric import Truth
from tinygptv.evaluate.metrics.referring_iou import iou
from tinygptv.evaluate.scoring import mark, score


def test_boxes_overlap_by_area() -> None:
    assert iou((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert iou((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)) == 0
    assert iou((0.5, 0, 0, 1), (0, 0, 1, 1)) == 0


def test_referring_reports_overlap_accuracy_and_unparsed_answers() -> None:
    truth = Truth((), box=(0.0, 0.0, 0.5, 0.5), image_size=(100, 100))
    found = score("referring_iou", ["{<0><0><50><50>}", "{<0><0><25><50>}", "{<60><60><90><90>}", "there"], [truth] * 4)
    assert (found.value, found.unparsed, found.n) == (0.5, 1, 4)
    assert found.extra["mean_iou"] == pytest.approx(1.5 / 4)


def test_the_inclusive_pixel_convention_of_the_reference_is_kind_to_small_pictures() -> None:
    truth = Truth((), box=(0.0, 0.0, 0.5, 1.0), image_size=(10, 10))
    judged = mark("referring_iou", "{<0><0><100><90>}", truth)
    assert (judged.strict, judged.lenient) == (0, 1)
