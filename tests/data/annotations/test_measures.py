"""Boxes in px, and in other measures that must not pass for px; pictures under another ending than their list says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.annotations.made import SIZE, read, source
from tinygptv.data.annotations import read_annotations
from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.annotations.images import ImageFolder
from tinygptv.errors import DataError
from tinygptv.sample import Turn
from tinygptv.store.artifacts import Store

IMAGE = "COCO_train2014_000000000001.jpg"


def referred(bbox: Any, sents: str = "dog", **more: Any) -> dict[str, Any]:
    img_id = f"{IMAGE.removesuffix('.jpg')}_7"
    return {"img_id": img_id, "sents": sents, "bbox": bbox, "width": SIZE[0], "height": SIZE[1], **more}


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([0.1, 0.2, 0.3, 0.4], "box_in_fractions"),
        ([0, 0, 1, 1], "box_in_fractions"),
        ([0.1, 0.2, 0.9, 0.8], "box_in_fractions"),
        ([300, 200, 500, 700], "box_outside_image"),
        ([60, 10, 90, 30], "box_outside_image"),  # corners
        ([10, 10, -5, 20], "box_outside_image"),
        ([10, 10, 0.4, 20], "box_too_small"),
        ([0, 0, float("nan"), 3], "malformed_record: bbox[]"),
        ([0, 0, float("inf"), 3], "malformed_record: bbox[]"),
        ([0, 0, 10**400, 3], "malformed_record: bbox[]"),
        (["0", "0", "9", "9"], "malformed_record: bbox[]"),
        ([True, 0, 9, 9], "malformed_record: bbox[]"),
        ([[0, 0], [9, 9]], "malformed_record: bbox[]"),
        ({"x": 0, "y": 0, "w": 9, "h": 9}, "malformed_record: bbox"),
        ("0,0,9,9", "malformed_record: bbox"),
    ],
)
def test_a_box_in_another_measure_is_dropped_under_its_reason(
    store: Store, tmp_path: Path, bbox: Any, reason: str
) -> None:
    for layout in ("refcoco", "invrefcoco"):
        assert read(store, tmp_path, layout, referred(bbox), images=(IMAGE,)).drops == {reason: 1}


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -50}, {"width": float("nan")}, {"width": 1e308}])
def test_an_image_has_a_size(store: Store, tmp_path: Path, size: dict[str, float]) -> None:
    found = read(store, tmp_path, "refcoco", referred([1, 2, 30, 20], **size), images=(IMAGE,))
    assert found.drops == {f"malformed_record: {next(iter(size))}": 1}


def test_a_file_of_corners_is_refused_although_most_fit_into_their_image(store: Store, tmp_path: Path) -> None:
    inside = [referred([1, 2, 30 + number, 40], f"dog {number}") for number in range(9)]
    assert not read(store, tmp_path, "refcoco", *inside, images=(IMAGE,)).drops
    with pytest.raises(DataError, match=r"1 of 10 boxes reach beyond their image, .* corners x0, y0, x1, y1; write x"):
        read(store, tmp_path, "refcoco", *inside, referred([60, 10, 90, 30]), images=(IMAGE,))
    other = referred([40, 2, 30, 20], "not a corner")
    found = read(store, tmp_path, "refcoco", *inside, other, referred([60, 10, 90, 30]), images=(IMAGE,))
    assert (len(found.samples), found.drops) == (10, {"box_outside_image": 1})


def test_boxes_that_fit_as_corners_too_are_read_with_a_warning(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as percent of corners in a picture of more than 200 px, or whole pictures."""
    either = [referred([1, 2, 30 + number, 40], f"dog {number}") for number in range(10)]
    assert len(read(store, tmp_path, "refcoco", *either, images=(IMAGE,)).samples) == 10
    assert "all 10 boxes would be right as corners, too" in caplog.text


def test_an_image_may_be_named_by_its_owner(store: Store, tmp_path: Path) -> None:
    record = referred([10, 10, 20, 20]) | {"img_id": "holiday/beach_7"}
    (sample,) = read(store, tmp_path, "refcoco", record, images=("holiday/beach.png",)).samples
    assert sample.turns == (Turn("dog", "{<10><20><30><60>}"),)


@pytest.mark.parametrize("stored", ["1.jpg", "1.JPG", "1.jpeg", "1.png", "1.webp", "1.gif", "1.PNG"])
@pytest.mark.parametrize("listed", ["1.jpg", "1.gif", "1.JPEG", "1"])
def test_an_image_is_looked_for_under_other_endings(tmp_path: Path, stored: str, listed: str) -> None:
    (tmp_path / stored).touch()
    assert ImageFolder(tmp_path).find(listed).path == str(tmp_path / stored)


def test_the_ending_that_is_listed_comes_first(tmp_path: Path) -> None:
    for name in ("a.b.jpg", "a.b.png", "a.jpg"):
        (tmp_path / name).touch()
    folder = ImageFolder(tmp_path)
    assert folder.find("a.b.png").path == str(tmp_path / "a.b.png")
    assert folder.find("a.b").path == str(tmp_path / "a.b.jpg")
    assert folder.find("gone.jpg", "a.b.png").path == str(tmp_path / "a.b.png")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.jpg", "", ".", "data:image/png;base64,AAAA", "caf\udce9.jpg"])
def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(RejectedError, match="missing_image"):
        ImageFolder(tmp_path).find(name)


def test_vizwiz_files_have_no_ids(store: Store, tmp_path: Path) -> None:
    answers = [{"answer": word, "answer_confidence": "yes"} for word in ("blue", "blue", "navy")]
    record = {"image": "1.jpg", "question": "What colour?", "answers": answers, "answer_type": "x", "answerable": 1}
    other = {"question_id": 7, "image_id": "1.jpg", "question": "And the name?", "answers": "Ann"}
    found = read(store, tmp_path, "vqav2", record, other)
    assert [(sample.key, sample.turns) for sample in found.samples] == [
        ("1.jpg/What colour?", (Turn("What colour?", "blue"),)),
        ("7", (Turn("And the name?", "Ann"),)),
    ]


def test_a_book_needs_an_answer_to_every_question(store: Store, tmp_path: Path) -> None:
    book = {"questions": ["Who?", "When?"], "answers": ["She"], "split": 1, "imageURL": "http://x.org/a.gif?b=c"}
    books = {"1": book, "2": book | {"answers": ["She", "1816"]}, "3": book | {"split": 4}}
    made = source(tmp_path, "ocrvqa", {"annotations": json.dumps(books).encode()}, ("2.jpg",))
    found = read_annotations(store, "made_up", made)
    assert [(sample.key, sample.turns[0].answer) for sample in found.samples] == [("2/0", "She"), ("2/1", "1816")]
    assert found.drops == {"questions_and_answers_differ": 1, "malformed_record: split": 1}
