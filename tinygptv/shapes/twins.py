"""Further layouts of drawn scenes: a few items each of every dataset that the tiny recipe does not train on.

They show that a layout is read from files like the published ones; no stage needs them to be many.
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinygptv.data.prompting.boxes import box_text
from tinygptv.shapes import language
from tinygptv.shapes.gallery import Gallery, write_json, write_lines
from tinygptv.shapes.scenes import Scene, SceneObject, draw
from tinygptv.shapes.tables import jpeg


def write_twins(folder: Path, gallery: Gallery, count: int) -> None:
    """Write about `count` items of each layout below `folder`; images are the gallery's, or lie beside the file."""
    pictures = gallery.scenes(count)
    _write_regions(folder / "visual_genome", pictures, gallery.side)
    _write_refs(folder / "refcoco", gallery, pictures)
    _write_flickr(folder / "flickr30k", gallery, pictures)
    _write_ocrvqa(folder / "ocrvqa", gallery, pictures)
    _write_captions(folder, gallery, pictures)
    _write_questions(folder / "gqa", gallery, count)
    _write_talks(folder, gallery, pictures)
    _write_instructions(folder / "unnatural_instructions", count)


def _write_picture(folder: Path, name: str, picture: Scene, side: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(jpeg(draw(picture, side)))


def _in_pixels(thing: SceneObject, side: int) -> tuple[float, float, float, float]:
    """x, y, width, height."""
    x0, y0, x1, y1 = (edge * side for edge in thing.box)
    return round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)


def _write_regions(folder: Path, pictures: list[Scene], side: int) -> None:
    images, described = [], []
    for number, picture in enumerate(pictures, 1):
        _write_picture(folder / "VG_100K", f"{number}.jpg", picture, side)
        url = f"https://example.org/rak248/VG_100K/{number}.jpg"
        images.append({"image_id": number, "url": url, "width": side, "height": side, "coco_id": None})
        regions = [
            {"region_id": number * 10 + place, "image_id": number, "phrase": language.region_description(thing)}
            | dict(zip(("x", "y", "width", "height"), _in_pixels(thing, side), strict=True))
            for place, thing in enumerate(picture.objects)
        ]
        described.append({"id": number, "regions": regions})
    write_json(folder / "image_data.json", images)
    write_json(folder / "region_descriptions.json", described)


def _write_refs(folder: Path, gallery: Gallery, pictures: list[Scene]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    for picture in pictures:
        name = gallery.name(picture)
        images.append({"id": picture.index, "file_name": name, "width": gallery.side, "height": gallery.side})
        for thing in picture.objects:
            phrases = language.identifying_phrases(picture, thing)
            if not phrases:
                continue
            number = len(annotations) + 1
            box = list(_in_pixels(thing, gallery.side))
            annotations.append({"id": number, "image_id": picture.index, "bbox": box, "category_id": 1})
            ids = {"ref_id": number, "ann_id": number, "image_id": picture.index}
            sentences = [{"raw": phrase, "sent": phrase, "sent_id": place} for place, phrase in enumerate(phrases)]
            refs.append({**ids, "split": "train", "sentences": sentences})
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    (folder / "refs(unc).p").write_bytes(plain_pickle(refs))


def plain_pickle(value: Any) -> bytes:
    """A pickle (protocol 0) of dicts, lists, texts and integers, as RefCOCO publishes its references."""
    codes = {opcode.name: opcode.code for opcode in pickletools.opcodes}

    def written(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield codes["MARK"] + codes["DICT"]
            for key, item in part.items():
                yield from (*written(key), *written(item), codes["SETITEM"])
        elif isinstance(part, list):
            yield codes["MARK"] + codes["LIST"]
            for item in part:
                yield from (*written(item), codes["APPEND"])
        elif isinstance(part, str):
            yield f"{codes['UNICODE']}{part}\n"
        else:
            yield f"{codes['INT']}{part}\n"

    return ("".join(written(value)) + codes["STOP"]).encode("raw-unicode-escape")


def _write_flickr(folder: Path, gallery: Gallery, pictures: list[Scene]) -> None:
    grounded, captions, phrases = [], [], []
    for picture in pictures:
        _write_picture(folder / "images", f"{picture.index}.jpg", picture, gallery.side)
        rng = gallery.rng("flickr", picture)
        image, answer = {"image_id": str(picture.index)}, language.grounded_caption(picture, rng)
        grounded.append(image | {"grounded_caption": answer})
        captions.append(image | {"caption": language.short_caption(picture, rng), "output": answer})
        for kind in sorted({thing.kind for thing in picture.objects}):
            boxes = [box_text(thing.box) for thing in picture.objects if thing.kind == kind]
            phrases.append(image | {"phrase": kind, "bbox": "<delim>".join(boxes)})
    write_json(folder / "groundedcaption.json", grounded)
    write_json(folder / "captiontobbox.json", captions)
    write_json(folder / "phrasetobbox.json", phrases)


def _write_ocrvqa(folder: Path, gallery: Gallery, pictures: list[Scene]) -> None:
    books = {}
    for picture in pictures:
        book = f"{picture.index:010d}"
        _write_picture(folder / "images", f"{book}.jpg", picture, gallery.side)
        asked = language.conversation(picture, gallery.rng("book", picture))
        books[book] = {
            "imageURL": f"http://example.org/covers/{picture.index}.jpg",
            "questions": [question.text for question in asked],
            "answers": [question.answer for question in asked],
            "title": language.short_caption(picture, gallery.rng("title", picture)),
            "genre": "Shapes",
            "split": 1,
        }
    write_json(folder / "dataset.json", books)


def _write_captions(folder: Path, gallery: Gallery, pictures: list[Scene]) -> None:
    karpathy, textcaps = [], []
    for number, picture in enumerate(pictures):
        name, caption = gallery.name(picture), language.full_caption(picture, gallery.rng("own caption", picture))
        karpathy.append({"image": f"train2014/{name}", "image_id": f"coco_{picture.index}", "caption": caption})
        stem = name.removesuffix(".jpg")
        textcaps.append({"image_id": stem, "image_path": f"train/{name}", "caption_id": number, "caption_str": caption})
    write_json(folder / "coco" / "coco_karpathy_train.json", karpathy)
    write_json(folder / "textcaps" / "TextCaps_0.1_train.json", {"dataset_name": "textcaps", "data": textcaps})


def _write_questions(folder: Path, gallery: Gallery, count: int) -> None:
    questions = {}
    for picture, question in language.balanced_questions("yes_no", gallery.split, count, seed=3):
        image_id = gallery.name(picture).removesuffix(".jpg")
        questions[f"{picture.index:09d}"] = {
            "imageId": image_id,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": question.answer,
            "isBalanced": True,
        }
    write_json(folder / "train_balanced_questions.json", questions)


def _write_talks(folder: Path, gallery: Gallery, pictures: list[Scene]) -> None:
    tagged, own = [], []
    for picture, other in zip(pictures, [*pictures[1:], pictures[0]], strict=True):
        thing, rng = picture.objects[0], gallery.rng("talk", picture)
        said = [
            ("[caption] Briefly describe this image.", language.short_caption(picture, rng)),
            (f"[identify] what is it in {box_text(thing.box)}", language.region_description(thing)),
        ]
        identifier = gallery.name(picture).removesuffix(".jpg").removeprefix("COCO_train2014_")
        tagged.append({"id": identifier, "conversations": [{"value": text} for turn in said for text in turn]})
        asked = "Which picture has more shapes, <image> or <image>? Say where one of its shapes is."
        fuller, place = (other, "second") if len(other.objects) > len(picture.objects) else (picture, "first")
        answer = f"the {place}, {language.region_description(fuller.objects[0])} <box>"
        own.append(
            {
                "id": identifier,
                "image": [gallery.name(picture), gallery.name(other)],
                "boxes": [[round(edge, 4) for edge in fuller.objects[0].box]],
                "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
            }
        )
    write_json(folder / "multitask_conversation" / "multitask_conversation.json", tagged)
    write_lines(folder / "own" / "talks.jsonl", own)


def _write_instructions(folder: Path, count: int) -> None:
    records = []
    for number in range(count):
        left, right = divmod(number, 8)
        asked = f"Add the numbers.\nInput: {left} and {right}"
        constraints = "Answer with a number." if number % 2 else None
        instance = {"instruction_with_input": asked, "constraints": constraints, "output": str(left + right)}
        records.append({"instruction": "Add the numbers.", "instances": [instance]})
    write_json(folder / "filtered_unnatural_instruction.json", records)
