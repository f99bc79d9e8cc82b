"""What is wrong with annotations is named and counted, one record at a time, however long the file is."""

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinygptv.data.annotations import AnnotationReader, read_annotations
from tinygptv.data.tables import json_stream
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Store


def source(folder: Path, layout: AnnotationFormat, content: bytes, images: str = "images") -> AnnotationsSource:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "annotations.json").write_bytes(content)
    return AnnotationsSource(
        kind="annotations",
        about="made up",
        licence="none",
        format=layout,
        files={"annotations": str(folder / "annotations.json")},
        images=str(folder / images),
    )


def drops(store: Store, folder: Path, layout: AnnotationFormat, *records: Any) -> Counter[str]:
    found = read_annotations(store, "made_up", source(folder, layout, json.dumps(records).encode()))
    assert found.rows_in == len(found.samples) + found.drops.total() == len(records)
    return found.drops


def referred(**changes: Any) -> dict[str, Any]:
    base = {"img_id": "COCO_train2014_000000000001_7", "sents": "dog", "bbox": [10, 10, 20, 20]}
    return {**base, "width": 100, "height": 50, **changes}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "COCO_train2014_000000000001.jpg"
    Image.new("RGB", (100, 50)).save(path)
    return path


def test_an_annotation_that_takes_its_image_for_another_size_is_dropped(
    store: Store, tmp_path: Path, picture: Path
) -> None:
    turned = referred(width=50, height=100, sents="turned")
    scaled = referred(width=200, height=100, sents="scaled copy")
    rounded = referred(width=101, height=50, sents="rounded", bbox=[0, 0, 101, 50])
    assert drops(store, tmp_path, "refcoco", referred(), turned, scaled, rounded) == {"wrong_image_size": 1}


def test_an_image_that_cannot_be_read_is_dropped_where_its_size_matters(
    store: Store, tmp_path: Path, picture: Path
) -> None:
    picture.write_bytes(b"<!doctype html>")
    assert drops(store, tmp_path, "refcoco", referred()) == {"unreadable_image": 1}


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_an_image_outside_its_folder_is_never_looked_at(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").touch()
    record = {
        "id": "1",
        "image": name,
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    }
    assert drops(store, tmp_path, "llava_conversation", record) == {"image_outside_folder": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<p>a</p> {<0><0><101><9>}", "box_outside_image"),
        ("<p>a</p> {<9><0><8><9>}", "box_outside_image"),
        ("<p>a</p>", "no_box"),
    ],
)
def test_boxes_written_in_texts_are_checked(
    store: Store, tmp_path: Path, picture: Path, answer: str, reason: str
) -> None:
    record = {"image_id": picture.stem, "grounded_caption": answer}
    assert drops(store, tmp_path, "flickr_grounded_caption", record) == {reason: 1}


def talk(number: int, **changes: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": f"q{number}"}, {"from": "gpt", "value": "a"}]
    return {"id": str(number), "conversations": said, **changes}


def test_lines_that_are_no_json_and_no_objects_are_counted(store: Store, tmp_path: Path) -> None:
    lines = [json.dumps(talk(1)), "{broken", "", "7", json.dumps(talk(1)), json.dumps(talk(2))]
    found = read_annotations(store, "made_up", source(tmp_path, "llava_conversation", "\n".join(lines).encode()))
    assert [sample.key for sample in found.samples] == ["1", "2"]
    assert (found.rows_in, found.drops) == (
        5,
        {"not_json": 1, "malformed_record: not an object": 1, "duplicate_key": 1},
    )


@pytest.mark.parametrize("form", ["list", "lines"])
def test_a_record_that_is_no_utf_8_is_counted_and_the_others_are_read(store: Store, tmp_path: Path, form: str) -> None:
    records = [json.dumps(talk(number)).encode() for number in range(3)]
    records[1] = records[1].replace(b"q1", b"caf\xe9")
    content = b"\n".join(records) if form == "lines" else b"[" + b", ".join(records) + b"]"
    found = read_annotations(store, "made_up", source(tmp_path, "llava_conversation", content))
    assert [sample.key for sample in found.samples] == ["0", "2"]
    assert found.drops == {"not_utf8": 1}


def test_half_a_surrogate_pair_is_no_text(store: Store, tmp_path: Path) -> None:
    record = talk(1, conversations=[{"from": "human", "value": "\ud83d"}, {"from": "gpt", "value": "a"}])
    assert drops(store, tmp_path, "llava_conversation", record) == {"not_utf8": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boxes": [[0, 0, 1, 1]]}, "boxes_and_marks_differ"),
        ({"boxes": [[0, 0, 1.2, 1]]}, "box_outside_image"),
        ({"boxes": [[0, 0, 1]]}, "malformed_record: boxes[]"),
        ({"image": ["1.jpg", "gone.jpg"]}, "missing_image"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": " "}]}, "empty_answer"),
    ],
)
def test_what_is_wrong_with_a_users_own_record_is_said(
    store: Store, tmp_path: Path, picture: Path, change: dict[str, Any], reason: str
) -> None:
    picture.rename(picture.with_name("1.jpg"))
    assert drops(store, tmp_path, "llava_conversation", talk(1, **change)) == {reason: 1}


def test_marks_for_other_than_all_images_are_refused(store: Store, tmp_path: Path, picture: Path) -> None:
    said = [{"from": "human", "value": "<image> like the other?"}, {"from": "gpt", "value": "a"}]
    record = talk(1, image=[picture.name, picture.name], conversations=said)
    assert drops(store, tmp_path, "llava_conversation", record) == {"images_and_marks_differ": 1}


@pytest.mark.parametrize("layout", ["llava_conversation", "unnatural_instruction", "refcoco"])
def test_a_file_is_read_record_by_record(store: Store, tmp_path: Path, layout: AnnotationFormat) -> None:
    """What comes before damage is handed out before the damage is met."""
    good = {
        "llava_conversation": talk(1),
        "unnatural_instruction": {"instances": [{"instruction_with_input": "q", "output": "a"}]},
        "refcoco": referred(),
    }[layout]
    content = f"[{json.dumps(good)}, {json.dumps(good)}".encode() + b" " * 3_000_000 + b"oops"
    reader = AnnotationReader(store, "made_up", source(tmp_path, layout, content))
    with pytest.raises(DataError, match=r"annotations.json: not valid JSON after value 2"):
        list(reader)
    assert reader.rows_in == 2


def test_a_line_without_an_end_is_not_gathered_in_memory(store: Store, tmp_path: Path) -> None:
    content = json.dumps(talk(1)).encode() + b"\n" + b"x" * (17 << 20)
    with pytest.raises(DataError, match=r"annotations.json, line 2: longer than 16 MB"):
        read_annotations(store, "made_up", source(tmp_path, "llava_conversation", content))


def question(number: int, picture: int = 1) -> dict[str, Any]:
    return {"question_id": number, "image_id": picture, "question": "what?", "answers": ["a"]}


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        ("llava_conversation", "{}"),
        ("llava_conversation", "[{}]"),
        ("vqav2", '{{"info": {{}}, "annotations": [{}]}}'),
        ("gqa", "{{{}}}"),
    ],
    ids=["lines", "list", "two files joined", "object"],
)
def test_memory_does_not_grow_with_the_length_of_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: AnnotationFormat, form: str
) -> None:
    """But for the keys, by which duplicates are known, and the questions, which lie in a file of their own."""

    def record(number: int) -> str:
        if layout == "gqa":
            return f'"{number}": ' + json.dumps({"imageId": "1", "question": "what?", "answer": "a"})
        return json.dumps(talk(number) if layout == "llava_conversation" else question(number))

    def peak(count: int) -> int:
        records = map(record, range(count))
        made = source(tmp_path, layout, form.format(("\n" if form == "{}" else ",").join(records)).encode())
        if layout == "vqav2":
            asked = tmp_path / "questions.json"
            asked.write_text(json.dumps({"questions": [question(number) for number in range(count)]}))
            made = made.model_copy(update={"files": made.files | {"questions": str(asked)}})
        reader = AnnotationReader(store, "made_up", made)
        tracemalloc.start()
        assert sum(1 for _ in reader) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 14)  # else these files fit into one
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "COCO_train2014_000000000001.jpg"):
        (tmp_path / "images" / name).touch()
    peak(100)
    assert peak(4_000) - peak(1_000) < 3_000 * (400 if layout == "vqav2" else 200)


READ_MANY = """
import resource, sys
from tinygptv.store.artifacts import Store
from tinygptv.data.annotations import AnnotationReader
from tinygptv.definitions.source import AnnotationsSource

def peak(count):
    with open(sys.argv[1], "w") as file:
        file.writelines(
            '{"id": "%d", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "%s"}]}\\n'
            % (number, "That. " * 20) for number in range(count)
        )
    fields = {"kind": "annotations", "about": "", "licence": "", "format": "llava_conversation", "images": "/"}
    reader = AnnotationReader(Store(sys.argv[2]), "m", AnnotationsSource(files={"annotations": sys.argv[1]}, **fields))
    assert sum(1 for _ in reader) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

few = peak(1_000)
print(peak(200_000) - few)
"""


def test_two_hundred_thousand_lines_are_read_in_little_memory(tmp_path: Path) -> None:
    """The file has 44 MB; what is kept of a line is its key. benchmarks/annotations.py reads a million."""
    command = [sys.executable, "-c", READ_MANY, str(tmp_path / "many.jsonl"), str(tmp_path / "workdir")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(told.stdout) < 200_000 * 150
