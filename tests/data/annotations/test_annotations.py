"""Annotation files in their published layouts become samples; what is broken is counted under its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.annotations import made
from tinygptv import catalog
from tinygptv.data.annotations import LAYOUTS, TASKS, Annotations, read_annotations
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import Turn
from tinygptv.store.artifacts import Store

TWINS = [name for name in catalog.names("source") if name.startswith("shapes_")]


def source(folder: Path, layout: AnnotationFormat, split: str | None = None, **files: Any) -> AnnotationsSource:
    """A source whose files hold the given JSON values, one per role."""
    return made.source(folder, layout, written(layout, files), split=split)


def read(store: Store, folder: Path, layout: AnnotationFormat, *images: str, **files: Any) -> Annotations:
    """What is read of such a source beside pictures of these names."""
    return made.read_files(store, folder, layout, written(layout, files), images)


def written(layout: AnnotationFormat, files: dict[str, Any]) -> dict[str, bytes]:
    """As JSON, or as lines of it where the layout is published so."""
    return {
        role: ("\n".join(map(json.dumps, content)) if layout == "vsr" else json.dumps(content)).encode()
        for role, content in files.items()
    }


def answers(*words: str) -> list[dict[str, Any]]:
    return [{"answer": word, "answer_confidence": "yes", "answer_id": n} for n, word in enumerate(words, 1)]


def test_cc_sbu_align(store: Store, tmp_path: Path) -> None:
    records = [
        {"image_id": "2", "caption": " A dog. "},
        {"image_id": "3", "caption": "gone"},
        {"image_id": "2", "caption": "A dog again."},
        {"image_id": "4", "caption": " "},
        {"image_id": "4"},
    ]
    found = read(store, tmp_path, "cc_sbu_align", "2.jpg", "4.jpg", annotations={"annotations": records})
    (sample,) = found.samples
    assert (sample.key, sample.turns, sample.source) == ("2", (Turn("", "A dog."),), "made_up")
    assert [image.path for image in sample.images] == [str(tmp_path / "images" / "2.jpg")]
    assert found.drops == {"missing_image": 1, "duplicate_key": 1, "empty_answer": 1, "malformed_record: no caption": 1}


def test_llava_conversations(store: Store, tmp_path: Path) -> None:
    def talk(*said: tuple[str, str]) -> list[dict[str, str]]:
        return [{"from": who, "value": value} for who, value in said]

    good = talk(("human", "What is it?\n<image>"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "Here."))
    records = [
        {"id": "1", "image": "000000000001.jpg", "conversations": good},
        {"id": "2", "conversations": talk(("human", "Who wrote it?"), ("gpt", "She."))},
        {"id": "3", "image": "000000000001.jpg", "conversations": talk(("human", "No answer?"))},
        {"id": "4", "image": "000000000001.jpg", "conversations": talk(("gpt", "A."), ("human", "Q?"))},
        {"id": "5", "image": "000000000001.jpg", "conversations": []},
    ]
    found = read(store, tmp_path, "llava_conversation", "COCO_train2014_000000000001.jpg", annotations=records)
    with_image, text_only = found.samples
    assert with_image.turns == (Turn("What is it?", "A dog."), Turn("Where?", "Here."))
    assert len(with_image.images) == 1
    assert text_only.images == ()
    assert found.drops == {"turns_do_not_alternate": 3}


def test_vqav2_joins_questions_and_annotations(store: Store, tmp_path: Path) -> None:
    questions = {
        "questions": [
            {"image_id": 1, "question_id": 10, "question": "What is it?"},
            {"image_id": 2, "question_id": 20, "question": "Where?"},
            {"image_id": 1, "question_id": 30, "question": "Who?"},
        ]
    }
    common = {"question_type": "what", "multiple_choice_answer": "dog"}
    annotations = {
        "annotations": [
            {"image_id": 1, "question_id": 10, "answers": answers("dog", "dog", "cat"), **common},
            {"image_id": 2, "question_id": 20, "answers": answers("here"), **common},
            {"image_id": 1, "question_id": 30, "answers": answers("", " "), **common},
            {"image_id": 1, "question_id": 40, "answers": answers("dog"), **common},
        ]
    }
    found = read(
        store, tmp_path, "vqav2", "COCO_val2014_000000000001.jpg", questions=questions, annotations=annotations
    )
    (sample,) = found.samples
    assert (sample.turns, sample.answers, sample.group) == (
        (Turn("What is it?", "dog"),),
        ("dog", "dog", "cat"),
        "what",
    )
    assert found.drops == {"missing_image": 1, "empty_answer": 1, "no_question": 1}


def test_vqa_records_that_hold_question_and_answers_together(store: Store, tmp_path: Path) -> None:
    records = [{"image_id": 1, "question_id": 1, "question": "Name it?", "answers": ["vine", "ivy", "ivy"]}]
    found = read(store, tmp_path, "vqav2", "000000000001.jpg", annotations=records)
    assert found.samples[0].turns == (Turn("Name it?", "ivy"),)


def test_aokvqa_keeps_one_split_and_needs_direct_answers(store: Store, tmp_path: Path) -> None:
    record = {"image_id": 1, "question": "What?", "choices": ["a", "b"], "split": "train"}
    records = [
        {**record, "question_id": "x", "direct_answers": ["b", "b", "a"]},
        {**record, "question_id": "y", "direct_answers": ["b"], "split": "val"},
        {**record, "question_id": "z"},
    ]
    given = source(tmp_path, "aokvqa", split="train", annotations=records)
    (tmp_path / "images" / "COCO_train2014_000000000001.jpg").touch()
    found = read_annotations(store, "made_up", given)
    assert [sample.turns for sample in found.samples] == [(Turn("What?", "b"),)]
    assert found.drops == {"other_split": 1, "empty_answer": 1}


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([50, 10, 60, 20], "box_outside_image"),
        ([-3, 10, 20, 20], "box_outside_image"),
        ([10, 10, 0, 20], "box_outside_image"),
        ([10, 10, 20], "malformed_record: bbox"),
        ([10, 10, "20", 20], "malformed_record: bbox[]"),
    ],
)
def test_a_box_that_is_none_is_dropped(store: Store, tmp_path: Path, bbox: list[Any], reason: str) -> None:
    record = {"img_id": "COCO_train2014_000000000001_7", "sents": "dog", "bbox": bbox, "height": 50, "width": 100}
    found = read(store, tmp_path, "refcoco", "COCO_train2014_000000000001.jpg", annotations=[record])
    assert (found.samples, found.drops) == ([], {reason: 1})


def test_refcoco_and_its_inverse_ask_about_the_same_box(store: Store, tmp_path: Path) -> None:
    base = {"img_id": "COCO_train2014_000000000001_7", "bbox": [10, 10, 20.5, 30], "height": 50, "width": 100}
    records = [{**base, "sents": "left dog "}, {**base, "sents": " "}]
    image = "COCO_train2014_000000000001.jpg"
    refer = read(store, tmp_path, "refcoco", image, annotations=records)
    identify = read(store, tmp_path, "invrefcoco", image, annotations=records)
    assert refer.samples[0].turns == (Turn("left dog", "{<10><20><30><80>}"),)
    assert identify.samples[0].turns == (Turn("{<10><20><30><80>}", "left dog"),)
    assert refer.samples[0].boxes == identify.samples[0].boxes == ((0.1, 0.2, 0.305, 0.8),)
    assert refer.drops == identify.drops == {"empty_phrase": 1}


def test_vsr(store: Store, tmp_path: Path) -> None:
    base = {"image": "1.jpg", "relation": "left of"}
    records = [
        {**base, "caption": "A is left of B.", "label": 1},
        {**base, "caption": "B is left of A.", "label": 0},
        {**base, "caption": "C?", "label": 2},
    ]
    found = read(store, tmp_path, "vsr", "1.jpg", annotations=records)
    assert [sample.turns[0].answer for sample in found.samples] == ["true", "false"]
    assert (found.samples[0].group, found.drops) == ("left of", {"malformed_record: label": 1})


def test_coco_captions_are_gathered_by_image(store: Store, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [
            {"image_id": 1, "caption": "a dog "},
            {"image_id": 1, "caption": "dog"},
            {"image_id": 3, "caption": "x"},
        ],
    }
    found = read(store, tmp_path, "coco_caption", "1.jpg", "2.jpg", annotations=content)
    assert [sample.answers for sample in found.samples] == [("a dog", "dog")]
    assert found.drops == {"no_caption": 1, "missing_image": 1}


def test_records_that_are_no_objects_are_counted(store: Store, tmp_path: Path) -> None:
    found = read(store, tmp_path, "refcoco", annotations=["text", 7, None, []])
    assert found.drops == {"malformed_record: not an object": 4}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_another_shape_is_named(store: Store, tmp_path: Path, layout: AnnotationFormat) -> None:
    given = source(tmp_path, layout, **{role: {} for role in min(LAYOUTS[layout].roles, key=len)})
    for file in given.files.values():
        Path(file).write_text("{broken")
    with pytest.raises(DataError, match=r"(annotations|images).json.*(not valid JSON|expected)"):
        read_annotations(store, "made_up", given)


def test_a_list_under_another_key_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a list 'annotations'; found annotation"):
        read(store, tmp_path, "cc_sbu_align", annotations={"annotation": []})


def test_files_that_a_layout_does_not_have_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        DefinitionError, match=r"source 'made_up', files: found questions; vqav2 needs annotations \+ questions or"
    ):
        read(store, tmp_path, "vqav2", questions={"questions": []})


def test_a_missing_file_is_named(store: Store, tmp_path: Path) -> None:
    given = source(tmp_path, "refcoco", annotations=[])
    Path(given.files["annotations"]).unlink()
    with pytest.raises(DataError, match=r"annotations.json: nothing at"):
        read_annotations(store, "made_up", given)


def test_every_layout_can_be_asked_something() -> None:
    assert set(TASKS) == set(LAYOUTS)


@pytest.mark.usefixtures("small_corpus")
def test_every_drawn_twin_is_read_without_a_loss(store: Store) -> None:
    formats = set()
    for name in TWINS:
        twin = catalog.source(name)
        assert isinstance(twin, AnnotationsSource)
        found = read_annotations(store, name, twin)
        assert found.samples, name
        assert not found.drops, name
        assert not found.not_read, name
        formats.add(twin.format)
    assert formats == set(LAYOUTS)


REAL: dict[str, tuple[AnnotationFormat, dict[str, str], str, int]] = {
    "five captions": (
        "coco_caption",
        {"annotations": "coco_captions/captions_val2014.subset4800.json"},
        "val2014",
        3837,
    ),
    "refcoco": ("refcoco", {"annotations": "refcoco/refcoco_testA.json"}, "train2017", 4559),
    "refcoco+": ("refcoco", {"annotations": "refcoco/refcoco+_testB.json"}, "train2017", 3870),
    "refcocog": ("invrefcoco", {"annotations": "refcoco/refcocog_test.json"}, "train2017", 7675),
    "vsr": ("vsr", {"annotations": "vsr/random/test.jsonl"}, "train2017", 1784),
    "a-okvqa": ("aokvqa", {"annotations": "aokvqa/aokvqa_v1p0_val.json"}, "val2014", 904),
    "a-okvqa test": ("aokvqa", {"annotations": "aokvqa/aokvqa_v1p0_test.sample.json"}, "val2014", 822),
    "ok-vqa": ("vqav2", {"annotations": "okvqa/okvqa_test_split.json"}, "val2014", 3563),
    "vqav2": ("vqav2", {"annotations": "vqav2/vqav2_restval.jsonl"}, "val2014", 4143),
    "llava": ("llava_conversation", {"annotations": "llava/blip_laion_cc_sbu_2k.json"}, "../llava_pretrain", 1765),
    "cc_sbu_align": ("cc_sbu_align", {"annotations": "cc_sbu_align/filter_cap.json"}, "val2014", 1892),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_and_only_for_want_of_images_and_answers_dropped(
    store: Store, shared: Path, name: str
) -> None:
    layout, files, images, rows = REAL[name]
    real = made.real_source(shared / "data", layout, files, f"coco/{images}")
    found = read_annotations(store, name, real)
    assert found.rows_in == rows == len(found.samples) + found.drops.total()
    allowed = {"missing_image", "no_caption"}
    if name == "a-okvqa test":
        allowed = {"empty_answer"}
    if name.startswith("refcoco"):
        allowed |= {"duplicate_key"}
    assert set(found.drops) <= allowed
    assert not found.not_read
    if name == "llava":
        assert len(found.samples) == 399


SEVERAL: dict[str, tuple[AnnotationFormat, dict[str, str], int]] = {
    "vizwiz": (
        "vqav2",
        {
            "annotations": "vizwiz/val_annotations_vqa_format.json",
            "questions": "vizwiz/val_questions_vqa_format.json",
        },
        3432,
    ),
    "visual genome": (
        "visual_genome",
        {
            "annotations": "visual_genome/region_descriptions.sample.json",
            "images": "visual_genome/image_data.sample.json",
        },
        5350,
    ),
    "visual cot": ("llava_conversation", {"annotations": "visual_cot/gqa.json"}, 765),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_all_keys_of_real_files_are_known(store: Store, shared: Path, name: str) -> None:
    """Their images are not at hand."""
    layout, files, rows = SEVERAL[name]
    found = read_annotations(store, name, made.real_source(shared / "data", layout, files, ""))
    assert (found.rows_in, found.not_read) == (rows, {})
    assert set(found.drops) <= {"missing_image", "large_region"}


def test_the_official_pair_of_vqa_files_is_joined(store: Store, shared: Path) -> None:
    """Real annotations; their questions come from the official OK-VQA file, whose ids do not meet them."""
    files = {
        "annotations": "vqav2/v2_mscoco_val2014_annotations.sample.json",
        "questions": "okvqa/OpenEnded_mscoco_val2014_questions.json",
    }
    real = made.real_source(shared / "data", "vqav2", files, "coco/val2014")
    found = read_annotations(store, "vqav2", real)
    assert (found.rows_in, dict(found.drops), found.not_read) == (63, {"no_question": 63}, {})
