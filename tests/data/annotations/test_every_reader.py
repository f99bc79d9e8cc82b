"""Every layout of annotation files is read past a record that is broken, which is counted under its reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinygptv.data.annotations import LAYOUTS, Annotations, read_annotations
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Store

GONE = 404
NO_UTF8 = "caf\udce9"  # written below as the byte E9 alone
NO_RECORD: list[Any] = [7, "text", None, [], {"nothing": "known"}]


@dataclass
class Case:
    """`record` makes the n-th good one, about the n-th picture; `faults` spoil one; `files` lays records out."""

    record: Callable[[int], dict[str, Any]]
    faults: list[tuple[str, dict[str, Any]]]
    files: Callable[[list[Any]], dict[str, str]] = lambda records: {"annotations": json.dumps(records)}


def below(key: str) -> Callable[[list[Any]], dict[str, str]]:
    return lambda records: {"annotations": json.dumps({"info": {}, key: records})}


def part(record: Any, *fields: str) -> Any:
    """A file's share of a record that two files hold; what is no record lies in both."""
    return {key: record[key] for key in fields if key in record} if isinstance(record, dict) else record


def book(records: list[Any]) -> dict[str, str]:
    """An object by id, in which an id may come twice."""
    ids = [record.get("book", "book") if isinstance(record, dict) else "book" for record in records]
    pairs = (f"{json.dumps(name)}: {json.dumps(record)}" for name, record in zip(ids, records, strict=True))
    return {"annotations": "{" + ", ".join(pairs) + "}"}


def regions(records: list[Any]) -> dict[str, str]:
    sizes = [{"image_id": n, "width": 100, "height": 50, "url": f"https://x.org/{n}.jpg"} for n in (0, 1, 2, GONE)]
    turned = {"image_id": 9, "width": 50, "height": 100, "url": "https://x.org/0.jpg"}
    described = [{"id": 0, "regions": records[:1]}, {"id": 1, "regions": records[1:]}]
    return {"annotations": json.dumps(described), "images": json.dumps([*sizes, turned])}


def talk(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]


def answered(word: str) -> list[dict[str, str]]:
    return [{"answer": word}] * 10


def referred(number: int) -> dict[str, Any]:
    size = {"width": 100, "height": 50}
    return {"img_id": f"COCO_train2014_{number:012d}_7", "sents": "dog", "bbox": [10, 10, 20, 20], **size}


CAPTION = [
    ("missing_image", {"image_id": GONE}),
    ("empty_answer", {"caption": " "}),
    ("not_utf8", {"caption": NO_UTF8}),
]
REFERRED = [
    ("missing_image", {"img_id": "COCO_train2014_000000000404_7"}),
    ("wrong_image_size", {"width": 50, "height": 100}),
    ("box_outside_image", {"bbox": [90, 10, 20, 20]}),
    ("empty_phrase", {"sents": " "}),
    ("not_utf8", {"sents": NO_UTF8}),
]
BOXED, OUTSIDE = "<p>a</p> {<1><2><3><4>}", "<p>a</p> {<1><2><103><4>}"

CASES: dict[AnnotationFormat, Case] = {
    "cc_sbu_align": Case(lambda n: {"image_id": n, "caption": "a"}, CAPTION, below("annotations")),
    "coco_caption": Case(
        lambda n: {"id": n, "file_name": f"{n}.jpg", "captions": ["a", "b"]},
        [
            ("missing_image", {"id": GONE, "file_name": "404.jpg"}),
            ("no_caption", {"captions": [" "]}),
            ("not_utf8", {"captions": [NO_UTF8]}),
        ],
        lambda records: {
            "annotations": json.dumps(
                {
                    "images": [part(record, "id", "file_name") for record in records],
                    "annotations": [
                        {"image_id": record["id"], "caption": caption}
                        for place, record in enumerate(records)
                        if isinstance(record, dict) and "id" in record and record not in records[:place]
                        for caption in record["captions"]
                    ],
                }
            )
        },
    ),
    "coco_karpathy": Case(
        lambda n: {"image": f"train/{n}.jpg", "image_id": f"coco_{n}", "caption": "a"},
        [("missing_image", {"image": "train/404.jpg"}), ("empty_answer", {"caption": " "}), CAPTION[2]],
    ),
    "textcaps": Case(
        lambda n: {"image_id": str(n), "caption_id": n, "caption_str": "a"},
        [
            ("missing_image", {"image_id": "404"}),
            ("empty_answer", {"caption_str": " "}),
            ("not_utf8", {"caption_str": NO_UTF8}),
        ],
        below("data"),
    ),
    "llava_conversation": Case(
        lambda n: {"id": str(n), "image": f"{n}.jpg", "conversations": talk("q", "at <box>"), "boxes": [[0, 0, 1, 1]]},
        [
            ("missing_image", {"image": "404.jpg"}),
            ("box_outside_image", {"boxes": [[0, 0, 1.5, 1]]}),
            ("empty_answer", {"conversations": talk("<box>", " ")}),
            ("not_utf8", {"conversations": talk(NO_UTF8, "<box>")}),
        ],
    ),
    "multitask_conversation": Case(
        lambda n: {"id": f"{n:012d}", "conversations": talk("q", "a")},
        [
            ("missing_image", {"id": "404"}),
            ("empty_answer", {"conversations": talk("q", " ")}),
            ("not_utf8", {"conversations": talk("q", NO_UTF8)}),
        ],
    ),
    "unnatural_instruction": Case(
        lambda n: {"instances": [{"instruction_with_input": f"q{n}", "output": "a"}]},
        [
            ("empty_answer", {"instances": [{"instruction_with_input": "q", "output": " "}]}),
            ("not_utf8", {"instances": [{"instruction_with_input": NO_UTF8, "output": "a"}]}),
        ],
    ),
    "vqav2": Case(
        lambda n: {"question_id": n, "image_id": n, "question": "what?", "answers": answered("a")},
        [
            ("missing_image", {"image_id": GONE}),
            ("empty_answer", {"answers": answered(" ")}),
            ("no_question", {"question": " "}),
            ("not_utf8", {"question": NO_UTF8}),
        ],
        lambda records: {
            "questions": json.dumps({"questions": [part(item, "question_id", "question") for item in records[:2]]})
            if records[1] == records[2]
            else json.dumps({"questions": [part(item, "question_id", "question") for item in records]}),
            "annotations": json.dumps(
                {"annotations": [part(item, "question_id", "image_id", "answers") for item in records]}
            ),
        },
    ),
    "aokvqa": Case(
        lambda n: {"question_id": str(n), "image_id": n, "question": "what?", "direct_answers": ["a"]},
        [
            ("missing_image", {"image_id": GONE}),
            ("empty_answer", {"direct_answers": [" "]}),
            ("no_question", {"question": ""}),
            ("not_utf8", {"direct_answers": [NO_UTF8]}),
        ],
    ),
    "gqa": Case(
        lambda n: {"book": str(n), "imageId": str(n), "question": "what?", "answer": "a"},
        [
            ("missing_image", {"imageId": "404"}),
            ("empty_answer", {"answer": " "}),
            ("no_question", {"question": " "}),
            ("not_utf8", {"answer": NO_UTF8}),
        ],
        book,
    ),
    "ocrvqa": Case(
        lambda n: {"book": str(n), "imageURL": "x.jpg", "questions": ["what?"], "answers": ["a"], "split": 1},
        [
            ("missing_image", {"book": "404"}),
            ("empty_answer", {"answers": [" "]}),
            ("no_question", {"questions": [" "]}),
            ("not_utf8", {"answers": [NO_UTF8]}),
        ],
        book,
    ),
    "vsr": Case(
        lambda n: {"image": f"{n}.jpg", "caption": "a", "relation": "on", "label": 1},
        [("missing_image", {"image": "404.jpg"}), ("malformed_record: label", {"label": 2}), CAPTION[2]],
        lambda records: {"annotations": "\n".join(map(json.dumps, records))},
    ),
    "refcoco": Case(referred, REFERRED),
    "invrefcoco": Case(referred, REFERRED),
    "visual_genome": Case(
        lambda n: {"region_id": n, "image_id": n, "phrase": "dog", "x": 10, "y": 10, "width": 20, "height": 20},
        [
            ("missing_image", {"image_id": GONE}),
            ("unknown_image", {"image_id": 1234}),
            ("wrong_image_size", {"image_id": 9}),
            ("box_outside_image", {"x": 90}),
            ("empty_phrase", {"phrase": " "}),
            ("not_utf8", {"phrase": NO_UTF8}),
        ],
        regions,
    ),
    "flickr_grounded_caption": Case(
        lambda n: {"image_id": n, "grounded_caption": BOXED},
        [
            ("missing_image", {"image_id": GONE}),
            ("box_outside_image", {"grounded_caption": OUTSIDE}),
            ("no_box", {"grounded_caption": " "}),
            ("not_utf8", {"grounded_caption": BOXED + NO_UTF8}),
        ],
    ),
    "flickr_caption_to_boxes": Case(
        lambda n: {"image_id": n, "caption": "a", "output": BOXED},
        [
            ("missing_image", {"image_id": GONE}),
            ("box_outside_image", {"output": OUTSIDE}),
            ("no_box", {"output": " "}),
            ("not_utf8", {"caption": NO_UTF8}),
        ],
    ),
    "flickr_phrase_to_boxes": Case(
        lambda n: {"image_id": n, "phrase": "a", "bbox": "{<1><2><3><4>}"},
        [
            ("missing_image", {"image_id": GONE}),
            ("box_outside_image", {"bbox": "{<1><2><103><4>}"}),
            ("no_box", {"bbox": ""}),
            ("empty_phrase", {"phrase": " "}),
            ("not_utf8", {"phrase": NO_UTF8}),
        ],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With three pictures of 100 x 50 px, under the names that layouts know them by."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        for name in (f"{number}.jpg", f"COCO_train2014_{number:012d}.jpg"):
            Image.new("RGB", (100, 50)).save(tmp_path / "images" / name)
    return tmp_path


def read(store: Store, folder: Path, layout: AnnotationFormat, records: list[Any], lost: int = 0) -> Annotations:
    """What is read of the records, laid out in files that have `lost` so many bytes at their end."""
    files = {}
    for role, text in CASES[layout].files(records).items():
        path = folder / f"{role}.json"
        content = text.replace("\\udce9", "\udce9").encode("utf-8", "surrogateescape")
        path.write_bytes(content[: len(content) - lost])
        files[role] = str(path)
    made = AnnotationsSource(
        kind="annotations", about="", licence="", format=layout, files=files, images=str(folder / "images")
    )
    found = read_annotations(store, "made_up", made)
    assert found.rows_in == len(found.samples) + found.drops.total()
    return found


def test_every_layout_is_among_them() -> None:
    assert set(CASES) == set(LAYOUTS)


FAULTS = [(layout, *fault) for layout, case in CASES.items() for fault in case.faults]


@pytest.mark.parametrize(("layout", "reason", "change"), FAULTS, ids=[f"{fault[0]}-{fault[1]}" for fault in FAULTS])
def test_a_broken_record_is_counted_and_its_neighbours_are_read(
    store: Store, folder: Path, layout: AnnotationFormat, reason: str, change: dict[str, Any]
) -> None:
    record = CASES[layout].record
    found = read(store, folder, layout, [record(0), record(1) | change, record(2)])
    assert (len(found.samples), found.drops) == (2, {reason: 1})


@pytest.mark.parametrize("layout", CASES)
def test_the_same_record_again_is_counted_and_not_read(store: Store, folder: Path, layout: AnnotationFormat) -> None:
    record = CASES[layout].record
    found = read(store, folder, layout, [record(0), record(1), record(1)])
    assert (len(found.samples), found.drops.total()) == (2, 1)
    assert set(found.drops) <= {"duplicate_key", "no_caption"}  # COCO's captions went to the first of the two


@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("piece", NO_RECORD, ids=str)
def test_json_that_is_no_record_is_counted_and_its_neighbours_are_read(
    store: Store, folder: Path, layout: AnnotationFormat, piece: Any
) -> None:
    record = CASES[layout].record
    found = read(store, folder, layout, [record(0), piece, record(2)])
    assert len(found.samples) == 2
    assert found.drops
    assert all(reason.startswith("malformed_record: ") or reason == "no_question" for reason in found.drops)


@pytest.mark.parametrize("layout", sorted(set(CASES) - {"vsr"}))
def test_a_file_that_ends_within_a_record_is_named(store: Store, folder: Path, layout: AnnotationFormat) -> None:
    records = [CASES[layout].record(number) for number in range(3)]
    with pytest.raises(DataError, match=r"\.json: (not valid JSON|expected)"):
        read(store, folder, layout, records, lost=5)


def test_of_json_lines_all_whole_ones_are_read(store: Store, folder: Path) -> None:
    found = read(store, folder, "vsr", [CASES["vsr"].record(number) for number in range(3)], lost=5)
    assert (len(found.samples), found.drops) == (2, {"not_json": 1})
