"""Every key of a record is read, ignored by name, reported as not read, or the reason why the record is dropped."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.data.annotations.made import read, source, talk
from tinygptv.data.annotations import LAYOUTS, read_annotations
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Store

COCO_IMAGE = {
    **{"license": 3, "file_name": "COCO_val2014_000000000009.jpg", "height": 50, "width": 100, "id": 9},
    **{"coco_url": "http://…", "flickr_url": "http://…", "date_captured": "2013-11-14 16:03:19"},
}
COCO_FILE = {"info": {"year": 2014}, "licenses": [{"id": 3}], "type": "captions", "images": [COCO_IMAGE]}
VQA_FILE = {"info": {}, "license": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014"}
ANSWER = {"answer": "yes", "answer_confidence": "maybe", "answer_id": 1, "raw_answer": "yes"}
BOX = {"segmentation": [[1, 2]], "area": 4.0, "iscrowd": 0, "image_id": 9, "bbox": [1, 2, 30, 20], "category_id": 1}
SENTENCE = {"tokens": ["dog"], "raw": "Dog", "sent_id": 0, "sent": "dog"}
REF = {
    **{"sent_ids": [0], "file_name": "COCO_val2014_000000000009_3.jpg", "ann_id": 3, "ref_id": 7, "image_id": 9},
    **{"split": "train", "sentences": [SENTENCE], "category_id": 1},
}
REFCOCO = {
    "instances": {**COCO_FILE, "annotations": [{**BOX, "id": 3}], "categories": []},
    "refs": [REF],
}
REGION = {"region_id": 1, "width": 30, "height": 20, "image_id": 9, "phrase": "a dog", "y": 2, "x": 1, "synsets": []}
PUBLISHED: list[tuple[AnnotationFormat, dict[str, Any]]] = [
    ("cc_sbu_align", {"annotations": {"annotations": [{"image_id": "9", "caption": "A dog."}]}}),
    (
        "coco_caption",
        {"annotations": {**COCO_FILE, "annotations": [{"image_id": 9, "id": 1, "caption": "A dog."}]}},
    ),
    ("coco_karpathy", {"annotations": [{"caption": "A dog.", "image": "train2014/9.jpg", "image_id": "coco_9"}]}),
    (
        "textcaps",
        {
            "annotations": {
                **{"dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1"},
                "data": [
                    {
                        **{
                            "caption_str": "a",
                            "image_id": "9",
                            "image_classes": ["Dog"],
                            "flickr_300k_url": "http://…",
                        },
                        **{
                            "flickr_original_url": "http://…",
                            "image_width": 100,
                            "image_height": 50,
                            "image_name": "9",
                        },
                        **{"image_path": "train/9.jpg", "caption_id": 3, "caption_tokens": ["a"], "set_name": "train"},
                        **{"reference_strs": ["a"], "reference_tokens": [["a"]]},
                    }
                ],
            }
        },
    ),
    ("llava_conversation", {"annotations": [talk("<image>\nq", "a", image="9.jpg")]}),
    ("llava_conversation", {"annotations": [{**talk("q", "a"), "model": ""}]}),  # ShareGPT's part of LLaVA-1.5's
    (
        "llava_conversation",  # Visual CoT
        {"annotations": [talk("<image>\nq", "a", image=["9.jpg"], dataset="gqa", split="val", question_id=6)]},
    ),
    ("multitask_conversation", {"annotations": [talk("<image>\nq", "a") | {"id": "000000000009"}]}),
    (
        "unnatural_instruction",
        {
            "annotations": [
                {
                    "instruction": "Add.",
                    "instances": [
                        {"instruction_with_input": "Add.\n1", "input": "1", "constraints": "None.", "output": "2"}
                    ],
                    "reformulations": [{"instruction": "Sum.", "instruction_with_input": "Sum.\n1", "output": "2"}],
                }
            ]
        },
    ),
    (
        "vqav2",
        {
            "questions": {**VQA_FILE, "questions": [{"image_id": 9, "question": "Is it?", "question_id": 9001}]},
            "annotations": {
                **VQA_FILE,
                "annotations": [
                    {
                        **{"question_type": "is it", "multiple_choice_answer": "yes", "answers": [ANSWER]},
                        **{"image_id": 9, "answer_type": "yes/no", "question_id": 9001},
                    }
                ],
            },
        },
    ),
    (
        "vqav2",  # VizWiz
        {
            "annotations": [
                {
                    **{"image": "9.jpg", "question": "What?", "answer_type": "other", "answerable": 1},
                    "answers": [{"answer": "dog", "answer_confidence": "yes"}],
                }
            ]
        },
    ),
    (
        "aokvqa",
        {
            "annotations": [
                {
                    **{"split": "train", "image_id": 9, "question_id": "22MexNkBPpdZGX6sxbxVBH", "question": "What?"},
                    **{"choices": ["a", "b"], "correct_choice_idx": 1, "direct_answers": ["b"]},
                    **{"difficult_direct_answer": False, "rationales": ["because"]},
                    **{"image": "9.jpg", "dataset": "aokvqa"},  # of MiniGPT-4's copy
                }
            ]
        },
    ),
    (
        "gqa",
        {
            "annotations": {
                "0293": {
                    **{"semantic": [], "entailed": [], "equivalent": ["0293"], "question": "Is it?", "imageId": "9"},
                    **{"isBalanced": True, "groups": {"global": None, "local": "x"}, "answer": "no", "types": {}},
                    **{"semanticStr": "…", "annotations": {}, "fullAnswer": "No."},
                }
            }
        },
    ),
    (
        "gqa",  # as LAVIS lists it
        {
            "annotations": [
                {
                    **{"image": "9.jpg", "question": "Is it?", "question_id": "0293", "answer": ["no"]},
                    **{"fullAnswer": "No.", "dataset": "gqa"},
                }
            ]
        },
    ),
    (
        "ocrvqa",
        {
            "annotations": {
                "9": {
                    **{"imageURL": "http://…/51.jpg", "questions": ["Who?"], "answers": ["She"], "split": 1},
                    **{"title": "T", "authorName": "She", "genre": "Novels"},
                }
            }
        },
    ),
    (
        "vsr",
        {
            "annotations": [
                {
                    **{"image": "9.jpg", "image_link": "http://…", "caption": "A is on B.", "label": 1},
                    **{"relation": "on", "annotator_id": 1, "vote_true_validator_id": [1], "subj": "a", "obj": "b"},
                    **{"vote_false_validator_id": [], "reference_frame": "gaze"},
                }
            ]
        },
    ),
    ("refcoco", REFCOCO),
    ("invrefcoco", REFCOCO),
    (
        "visual_genome",
        {
            "images": [
                {
                    **{"width": 100, "height": 50, "url": "https://x.org/VG_100K_2/9.jpg", "image_id": 9},
                    **{"coco_id": None, "flickr_id": None},
                }
            ],
            "annotations": [{"id": 9, "regions": [REGION]}],
        },
    ),
    ("flickr_grounded_caption", {"annotations": [{"image_id": "9", "grounded_caption": "<p>A</p> {<1><2><3><4>}"}]}),
    (
        "flickr_caption_to_boxes",
        {"annotations": [{"image_id": "9", "caption": "A.", "output": "<p>A</p> {<1><2><3><4>}"}]},
    ),
    ("flickr_phrase_to_boxes", {"annotations": [{"image_id": "9", "phrase": "A", "bbox": "{<1><2><3><4>}"}]}),
]
IMAGES = ("9.jpg", "COCO_train2014_000000000009.jpg")


def published(folder: Path, layout: AnnotationFormat, files: dict[str, Any]) -> AnnotationsSource:
    contents = {role: json.dumps(content).encode() for role, content in files.items()}
    return source(folder, layout, contents, IMAGES)


@pytest.mark.parametrize(("layout", "files"), PUBLISHED, ids=[layout for layout, _ in PUBLISHED])
def test_all_keys_of_published_records_are_read_or_ignored_by_name(
    store: Store, tmp_path: Path, layout: AnnotationFormat, files: dict[str, Any]
) -> None:
    found = read_annotations(store, "made_up", published(tmp_path, layout, files))
    assert (len(found.samples), found.drops, found.not_read) == (1, {}, {})


def test_every_layout_is_among_them() -> None:
    assert {layout for layout, _ in PUBLISHED} == set(LAYOUTS)


PLACES: dict[AnnotationFormat, tuple[str, ...]] = {
    "cc_sbu_align": ("annotations/annotations/0",),
    "coco_caption": ("annotations/images/0", "annotations/annotations/0"),
    "coco_karpathy": ("annotations/0",),
    "textcaps": ("annotations/data/0",),
    "llava_conversation": ("annotations/0", "annotations/0/conversations/1"),
    "multitask_conversation": ("annotations/0", "annotations/0/conversations/0"),
    "unnatural_instruction": ("annotations/0", "annotations/0/instances/0"),
    "vqav2": ("questions/questions/0", "annotations/annotations/0", "annotations/annotations/0/answers/0"),
    "aokvqa": ("annotations/0",),
    "gqa": ("annotations/0293",),
    "ocrvqa": ("annotations/9",),
    "vsr": ("annotations/0",),
    "refcoco": ("refs/0", "refs/0/sentences/0", "instances/annotations/0", "instances/images/0"),
    "invrefcoco": ("refs/0",),
    "visual_genome": ("images/0", "annotations/0", "annotations/0/regions/0"),
    "flickr_grounded_caption": ("annotations/0",),
    "flickr_caption_to_boxes": ("annotations/0",),
    "flickr_phrase_to_boxes": ("annotations/0",),
}
"""Where each kind of object stands in the first of a layout's published files."""
OBJECTS = [(layout, place) for layout, places in PLACES.items() for place in places]


def with_key(folder: Path, layout: AnnotationFormat, place: str, key: str, value: Any) -> AnnotationsSource:
    """The published files, with a key more in one object."""
    files = json.loads(json.dumps(next(files for name, files in PUBLISHED if name == layout)))
    found = files
    for step in place.split("/"):
        found = found[int(step) if isinstance(found, list) else step]
    found[key] = value
    return published(folder, layout, files)


@pytest.mark.parametrize(("layout", "place"), OBJECTS)
def test_a_key_nothing_reads_is_counted_in_whichever_object_it_stands(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: AnnotationFormat, place: str
) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_annotations(store, "made_up", with_key(tmp_path, layout, place, "odd", 7))
    ((what, count),) = found.not_read.items()
    assert (what.rpartition(".")[2].removeprefix("key "), count, len(found.samples)) == ("odd", 1, 1)
    assert f"source 'made_up': not read: {what} (1)" in caplog.text


@pytest.mark.parametrize("key", ["images", "Videos", "audios", "messages", "history", "tools", "img", "system"])
@pytest.mark.parametrize(("layout", "place"), OBJECTS)
def test_a_record_with_a_picture_or_a_turn_under_a_key_nothing_reads_is_dropped(
    store: Store, tmp_path: Path, layout: AnnotationFormat, place: str, key: str
) -> None:
    if (layout, place) == ("llava_conversation", "annotations/0") and key in (
        "images",
        "messages",
        "history",
        "system",
    ):
        key = "dialogue"  # these it reads
    found = read_annotations(store, "made_up", with_key(tmp_path, layout, place, key, ["something"]))
    assert found.drops[f"unknown_key_{key.lower()}"] == 1
    assert not found.samples or place == "annotations/images/0"  # captions name their image without this one, too


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_a_key_without_a_value_carries_nothing(store: Store, tmp_path: Path, nothing: Any) -> None:
    """ms-swift and data frames write every key into every record."""
    found = read(store, tmp_path, "llava_conversation", talk("q", "a", videos=nothing, tools=nothing))
    assert (len(found.samples), found.drops) == (1, {})


@pytest.mark.parametrize(("key", "value"), [("loss", False), ("weight", 0), ("train", False), ("loss", "no")])
def test_an_answer_that_is_not_to_be_learned_is_not_learned(store: Store, tmp_path: Path, key: str, value: Any) -> None:
    record = talk("q", "a")
    record["conversations"][1][key] = value
    assert read(store, tmp_path, "llava_conversation", record).drops == {f"unknown_key_{key}": 1}


@pytest.mark.parametrize("key", ["image_url", "coco_img", "my_photo", "video_file", "imageName"])
def test_a_picture_under_an_unheard_of_key_is_not_trained_as_words_alone(
    store: Store, tmp_path: Path, key: str
) -> None:
    found = read(store, tmp_path, "llava_conversation", talk("q", "a", **{key: "1.jpg"}))
    assert (found.drops, found.not_read) == ({"picture_under_another_key": 1}, {f"key {key}": 1})
    shown = talk("q", "a", image="1.jpg", image_width=100, **{key: "http://x.org/1.jpg"})
    assert not read(store, tmp_path, "llava_conversation", shown).drops


def test_other_labels_and_weights_are_numbers_like_any_other(store: Store, tmp_path: Path) -> None:
    record = {"question_id": 1, "image": "1.jpg", "question": "q", "answers": [{"answer": "a", "weight": 0.3}]}
    found = read(store, tmp_path, "vqav2", record)
    assert (len(found.samples), found.not_read) == (1, {"key answers[].weight": 1})


def test_a_key_that_stands_twice_loses_no_picture(store: Store, tmp_path: Path) -> None:
    twice = json.dumps([talk("q", "a", image="1.jpg")]).replace('"image"', '"image": "2.jpg", "image"').encode()
    made = source(tmp_path, "llava_conversation", {"annotations": twice}, ("1.jpg", "2.jpg"))
    assert read_annotations(store, "made_up", made).drops == {"repeated_key": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": None}, "malformed_record: no conversations"),
        ({"conversations": "q"}, "malformed_record: conversations"),
        ({"conversations": [{"from": "human"}]}, "malformed_record: no conversations[].value"),
        ({"conversations": [{"value": "q"}, {"value": "a"}]}, "malformed_record: no conversations[].from"),
        ({"image": 7}, "malformed_record: image"),
        ({"id": True}, "malformed_record: id"),
        ({"boxes": [[0, 0, 1, float("nan")]]}, "malformed_record: boxes[][]"),
    ],
)
def test_a_missing_or_wrong_field_is_named(store: Store, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert read(store, tmp_path, "llava_conversation", talk("q", "a") | change).drops == {reason: 1}


def test_the_first_trouble_says_where_it_is_and_what_is_wanted(store: Store, tmp_path: Path) -> None:
    found = read(store, tmp_path, "vqav2", {"question": "What?"}, {"question": "Who?"})
    assert found.first_trouble == (
        f"the first one dropped is record 1 of {tmp_path / 'annotations.json'}: it has no 'answers', but question; "
        "vqav2 wants answers, image; it also reads split, question_id, question, image_id, multiple_choice_answer, "
        "question_type"
    )


def test_names_that_are_data_are_counted_together(store: Store, tmp_path: Path) -> None:
    records = [talk("q", "a", id=str(number), **{f"{number:02d}" + "x" * 200: 7}) for number in range(60)]
    found = read(store, tmp_path, "llava_conversation", *records)
    assert (len(found.samples), len(found.not_read), found.not_read["other keys"]) == (60, 51, 10)
    assert max(map(len, found.not_read)) == 100


def test_the_file_in_which_the_first_trouble_is_is_named(store: Store, tmp_path: Path) -> None:
    _, files = next(case for case in PUBLISHED if case[0] == "refcoco")
    refs = [REF, {"ref_id": 8}]
    found = read_annotations(store, "made_up", published(tmp_path, "refcoco", files | {"refs": refs}))
    assert found.first_trouble == (
        f"the first one dropped is record 2 of {tmp_path / 'refs.json'}: it has no 'ann_id', but ref_id; refcoco wants "
        "ref_id, ann_id, image_id, split, sentences"
    )


@pytest.mark.parametrize(
    ("layout", "content", "message"),
    [
        ("llava_conversation", b"[] []", "expected the end of the file after value 0, found '\\[\\]'"),
        ("cc_sbu_align", b'{"annotations": []} {"annotations": []}', "expected the end of the file"),
        ("cc_sbu_align", b'{"annotations": [], "annotations": []}', "the list 'annotations' is there twice"),
        ("llava_conversation", b"[" * 100_000, "nested too deeply"),
        ("llava_conversation", b'{"id": ' + b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_no_part_of_a_file_is_passed_over(
    store: Store, tmp_path: Path, layout: AnnotationFormat, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_annotations(store, "made_up", source(tmp_path, layout, {"annotations": content}))


def test_of_two_boxes_with_one_id_neither_is_taken(store: Store, tmp_path: Path) -> None:
    _, files = next(case for case in PUBLISHED if case[0] == "refcoco")
    box = files["instances"]["annotations"][0]
    for other, drops in ((box, {}), (box | {"bbox": [1, 2, 3, 4]}, {"duplicate_key": 1, "no_box": 1})):
        instances = files["instances"] | {"annotations": [box, other]}
        found = read_annotations(store, "made_up", published(tmp_path, "refcoco", files | {"instances": instances}))
        assert found.drops == drops


def test_a_list_beside_the_records_is_reported(store: Store, tmp_path: Path) -> None:
    content = {"annotations": [{"image_id": "9", "caption": "A dog."}], "more": [{"image_id": "9"}]}
    found = read_annotations(store, "made_up", published(tmp_path, "cc_sbu_align", {"annotations": content}))
    assert found.not_read == {"key more of the file": 1}


@pytest.mark.parametrize("form", ["list", "lines"])
def test_a_byte_order_mark_is_read_over(store: Store, tmp_path: Path, form: str) -> None:
    texts = [json.dumps(talk("q", f"a{number}", id=str(number))) for number in range(2)]
    text = f"[{', '.join(texts)}]" if form == "list" else "\n\ufeff".join(texts)  # as `cat` joins such files
    made = source(tmp_path, "llava_conversation", {"annotations": text.encode("utf-8-sig")})
    found = read_annotations(store, "made_up", made)
    assert ([sample.key for sample in found.samples], found.drops) == (["0", "1"], {})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("layout", ["llava_conversation", "cc_sbu_align", "gqa"])
def test_another_encoding_is_named(store: Store, tmp_path: Path, layout: AnnotationFormat, encoding: str) -> None:
    made = source(tmp_path, layout, {"annotations": '[{"id": 1}]'.encode(encoding)})
    with pytest.raises(DataError, match=rf"annotations.json: written in {encoding.upper()}.*UTF-8"):
        read_annotations(store, "made_up", made)
