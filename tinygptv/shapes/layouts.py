"""Annotations about drawn scenes in the layouts of the datasets they stand for, training and held-out files apart.

Questions and statements are exactly balanced (`language.balanced_*`), so that a benchmark's chance level is known.
Images carry COCO's names; the number in a name is the scene's index.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tinygptv.shapes import language
from tinygptv.shapes.gallery import SEED, Gallery, write_json, write_lines
from tinygptv.shapes.language import Question, Statement
from tinygptv.shapes.scenes import Scene, SceneObject, draw, scene
from tinygptv.shapes.tables import jpeg
from tinygptv.shapes.twins import write_twins
from tinygptv.shapes.wordings import TAG, TRIED, reworded

SIZES = {
    "train": {
        "align": 1000,
        "conversation": 1000,
        "detail": 1000,
        "caption": 1000,
        "refer": 3000,
        "identify": 1000,
        "aokvqa": 800,
        "colour": 1200,
        "kind": 1200,
        "count": 1500,
        "position": 1500,
        "attribute_statements": 2400,
        "count_statements": 800,
        "spatial_statements": 1600,
        "twins": 60,
    },
    "heldout": {
        "caption": 200,
        "refer": 300,
        "colour": 150,
        "kind": 150,
        "count": 280,
        "position": 270,
        "attribute_statements": 300,
        "spatial_statements": 280,
        "wordings": 60,
    },
}
"""Items per split and type; of `wordings` so many questions of a kind, each in every wording."""

FOLDERS = {"train": "train2014", "heldout": "val2014"}  # COCO's names of the two splits
_CAPTIONS_PER_IMAGE = 5


def write_annotations(folder: Path, side: int, only: str | None = None) -> dict[str, int]:
    """Write all files below `folder`, or those of one split; how many items, and images, each split holds."""
    counts: dict[str, int] = {}
    for split, sizes in SIZES.items():
        if only not in (None, split):
            continue
        gallery = Gallery(folder / "coco" / FOLDERS[split], split, side)
        _write_questions(folder, gallery, sizes)
        _write_statements(folder, gallery, sizes)
        _write_references(folder, gallery, sizes)
        _write_captions(folder, gallery, sizes)
        if split == "train":
            _write_aokvqa(folder, gallery, sizes["aokvqa"])
            _write_llava(folder, gallery, sizes)
            _write_align(folder, side, sizes["align"])
            write_twins(folder, gallery, sizes["twins"])
        counts |= {f"{split}_items": sum(sizes.values()), f"{split}_images": len(gallery.drawn)}
    return counts


# VQAv2: a file of questions and one of annotations with ten answers each


def _write_questions(folder: Path, gallery: Gallery, sizes: dict[str, int]) -> None:
    files: dict[str, tuple[str, ...]] = {"": ("colour", "kind", "count", "position")}
    if gallery.split == "heldout":  # one file per benchmark
        files = {"attributes_": ("colour", "kind"), "counting_": ("count",), "position_": ("position",)}
        _write_wordings(folder, gallery, sizes["wordings"])
    for prefix, kinds in files.items():
        asked = [(k, *item) for k in kinds for item in language.balanced_questions(k, gallery.split, sizes[k], SEED)]
        if gallery.split == "train":
            asked = [(kind, picture, _in_other_words(gallery, picture, question)) for kind, picture, question in asked]
        _write_vqav2(folder / "vqav2", prefix, gallery, asked)


def _write_wordings(folder: Path, gallery: Gallery, count: int) -> None:
    """The same questions in every wording that is tried, with and without a tag; a wording is a question's type."""
    asked = [
        (f"{kind}/{tag}{wording}", picture, replace(question, text=tag + wording.format(question.about)))
        for kind, wordings in TRIED.items()
        for picture, question in language.balanced_questions(kind, gallery.split, count, SEED)
        for wording in wordings
        for tag in ("", TAG)
    ]
    _write_vqav2(folder / "vqav2", "wordings_", gallery, asked)


def _in_other_words(gallery: Gallery, picture: Scene, question: Question) -> Question:
    return replace(question, text=reworded(question, gallery.rng(f"wording {question.kind}", picture)))


def _write_vqav2(folder: Path, prefix: str, gallery: Gallery, asked: list[tuple[str, Scene, Question]]) -> None:
    questions, annotations = [], []
    for number, (kind, picture, question) in enumerate(asked):
        gallery.name(picture)
        ids = {"image_id": picture.index, "question_id": picture.index * 100_000 + number}
        questions.append({**ids, "question": question.text})
        answers = [
            {"answer": question.answer, "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)
        ]
        annotations.append(
            {
                **ids,
                "question_type": kind,
                "answer_type": "number" if question.kind == "count" else "other",
                "multiple_choice_answer": question.answer,
                "answers": answers,
            }
        )
    head = {"info": {"description": "shapes"}, "data_type": "mscoco", "data_subtype": gallery.folder.name}
    stem = f"{prefix}v2"
    write_json(
        folder / f"{stem}_OpenEnded_mscoco_{gallery.folder.name}_questions.json", head | {"questions": questions}
    )
    write_json(folder / f"{stem}_mscoco_{gallery.folder.name}_annotations.json", head | {"annotations": annotations})


def _write_aokvqa(folder: Path, gallery: Gallery, count: int) -> None:
    records = []
    for picture, question in language.balanced_questions("yes_no", gallery.split, count, SEED):
        gallery.name(picture)
        records.append(
            {
                "split": "train",
                "image_id": picture.index,
                "question_id": f"shapes{picture.index}",
                "question": _in_other_words(gallery, picture, question).text,
                "choices": ["yes", "no"],
                "correct_choice_idx": ["yes", "no"].index(question.answer),
                "direct_answers": [question.answer] * 10,
                "difficult_direct_answer": False,
                "rationales": [language.full_caption(picture, gallery.rng("rationale", picture))],
            }
        )
    write_json(folder / "aokvqa" / "aokvqa_v1p0_train.json", records)


# VSR: one line per statement


def _write_statements(folder: Path, gallery: Gallery, sizes: dict[str, int]) -> None:
    kinds = [kind for kind in language.STATING if f"{kind}_statements" in sizes]
    stated = {
        kind: language.balanced_statements(kind, gallery.split, sizes[f"{kind}_statements"], SEED) for kind in kinds
    }
    if gallery.split == "train":
        stated = {"train": chain.from_iterable(stated.values())}
    for name, statements in stated.items():
        write_lines(folder / "vsr" / f"{_vsr_file(name)}.jsonl", _vsr_records(gallery, statements))


def _vsr_file(name: str) -> str:
    return name if name == "train" else f"{name}_test"


def _vsr_records(gallery: Gallery, statements: Iterable[tuple[Scene, Statement]]) -> Iterator[dict[str, Any]]:
    for picture, statement in statements:
        name = gallery.name(picture)
        yield {
            "image": name,
            "image_link": f"http://images.cocodataset.org/{gallery.folder.name}/{name}",
            "caption": statement.text,
            "label": int(statement.truth),
            "relation": statement.claim[-1] if statement.kind == "spatial" else statement.kind,
        }


# RefCOCO and its inverse, as MiniGPT-v2 evaluates them: x, y, width, height in px


def _write_references(folder: Path, gallery: Gallery, sizes: dict[str, int]) -> None:
    referring, describing = [], []
    for picture in gallery.scenes(sizes["refer"]):
        reference = language.reference(picture, gallery.rng("refer", picture))
        if reference is not None:
            referring.append(_refcoco_record(gallery, picture, reference.target, reference.phrase))
    write_json(folder / "refcoco" / f"refcoco_{'train' if gallery.split == 'train' else 'val'}.json", referring)
    if gallery.split == "train":
        for picture in gallery.scenes(sizes["identify"]):
            thing = gallery.rng("identify", picture).choice(picture.objects)
            describing.append(_refcoco_record(gallery, picture, thing, language.region_description(thing)))
        write_json(folder / "refcoco" / "invrefcoco_train.json", describing)


def _refcoco_record(gallery: Gallery, picture: Scene, thing: SceneObject, phrase: str) -> dict[str, Any]:
    x0, y0, x1, y1 = (edge * gallery.side for edge in thing.box)
    return {
        "img_id": f"{gallery.name(picture).removesuffix('.jpg')}_{picture.objects.index(thing)}",
        "sents": phrase,
        "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
        "height": gallery.side,
        "width": gallery.side,
    }


# COCO captions, LLaVA, cc_sbu_align


def _write_captions(folder: Path, gallery: Gallery, sizes: dict[str, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture in gallery.scenes(sizes["caption"]):
        name, rng = gallery.name(picture), gallery.rng("caption", picture)
        images.append({"id": picture.index, "file_name": name, "height": gallery.side, "width": gallery.side})
        for _ in range(_CAPTIONS_PER_IMAGE):
            caption = language.full_caption(picture, rng)
            annotations.append({"image_id": picture.index, "id": len(annotations) + 1, "caption": caption})
    content = {"info": {"description": "shapes"}, "images": images, "licenses": [], "annotations": annotations}
    write_json(folder / "coco" / f"captions_{gallery.folder.name}.json", content)


def _write_llava(folder: Path, gallery: Gallery, sizes: dict[str, int]) -> None:
    talks, details = [], []
    for picture in gallery.scenes(sizes["conversation"]):
        asked = language.conversation(picture, gallery.rng("conversation", picture))
        asked = [_in_other_words(gallery, picture, question) for question in asked]
        talks.append(_llava_record(gallery, picture, [(question.text, question.answer) for question in asked]))
    for picture in gallery.scenes(sizes["detail"]):
        answer = language.detailed_description(picture, gallery.rng("detail", picture))
        details.append(_llava_record(gallery, picture, [("what do you see happening in this image?", answer)]))
    write_json(folder / "llava" / "conversation_58k.json", talks)
    write_json(folder / "llava" / "detail_23k.json", details)


def _llava_record(gallery: Gallery, picture: Scene, turns: list[tuple[str, str]]) -> dict[str, Any]:
    said = [part for q, a in turns for part in ({"from": "human", "value": q}, {"from": "gpt", "value": a})]
    said[0] = {"from": "human", "value": f"<image>\n{turns[0][0]}"}
    return {"id": f"{picture.index:012d}", "image": gallery.name(picture), "conversations": said}


def _write_align(folder: Path, side: int, count: int) -> None:
    """Its own folder of images named by number, as published; scenes that nothing else here shows."""
    images = folder / "cc_sbu_align" / "image"
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        picture = scene("train", (SEED + 1) * 1_000_000 + number)
        (images / f"{number}.jpg").write_bytes(jpeg(draw(picture, side)))
        caption = language.detailed_description(picture, random.Random(f"align {number}"))
        records.append({"image_id": str(number), "caption": caption})
    write_json(folder / "cc_sbu_align" / "filter_cap.json", {"annotations": records})
