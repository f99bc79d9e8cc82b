"""Phrases and where they are: RefCOCO and its inverse, Visual Genome regions, Flickr30k's captions and phrases.

A record of the first three becomes `img_id`, `sents`, `bbox` [x, y, width, height] in px, `width`, `height` of the
image: the layout in which MiniGPT-v2 evaluates RefCOCO. Flickr30k's boxes stand in its texts already.
"""

import functools
from collections.abc import Iterator
from typing import Any

from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.annotations.plain_pickle import read_plain_pickle
from tinygptv.data.annotations.records import (
    ONE_FILE,
    Files,
    Layout,
    Record,
    RejectedError,
    array,
    each,
    index,
    member,
    only,
    records,
)
from tinygptv.data.boxes import CODECS, Box, box_text
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample, Turn

_BOX_TOLERANCE = 1.0  # px; published boxes are rounded
_LARGEST_REGION = 16_384  # px²; larger regions of Visual Genome are hardly worth pointing at (OFA, MiniGPT-v2)


# RefCOCO


def _refcoco_records(files: Files) -> Iterator[Record | RejectedError]:
    """One record per phrase, of MiniGPT-v2's list, or of the official `instances.json` and pickle of `refs`."""
    if "refs" not in files:
        yield from records(files)
        return
    refs = _refs(files)
    boxes, rejected = index(member(files["instances"], "annotations"), "id", lambda annotation: annotation["bbox"])
    yield from rejected
    images, rejected = index(member(files["instances"], "images"), "id", only("file_name", "width", "height"))
    yield from rejected
    for ref in refs:
        image, box = images.get(ref["image_id"]), boxes.get(ref["ann_id"])
        if image is None or box is None:
            yield from (RejectedError("unknown_image" if image is None else "no_box") for _ in ref["sentences"])
        else:
            yield from each(ref["sentences"], functools.partial(_refcoco_record, ref, image, box))


def _refcoco_record(ref: Record, image: Record, box: list[float], sentence: Record) -> Record:
    key = f"{image['file_name'].removesuffix('.jpg')}_{ref['ref_id']}"
    size = {"width": image["width"], "height": image["height"]}
    return {"img_id": key, "sents": sentence["raw"], "split": ref["split"], "bbox": box, **size}


def _refs(files: Files) -> list[dict[str, Any]]:
    path = files["refs"]
    refs = list(array(path)) if path.suffix == ".json" else read_plain_pickle(path)
    needed = {"ref_id", "ann_id", "image_id", "split", "sentences"}
    if not isinstance(refs, list) or not all(isinstance(ref, dict) and needed <= set(ref) for ref in refs):
        raise DataError(f"{path}: want a list of references with {', '.join(sorted(needed))}; is this the right file?")
    return refs


def _refer(record: Record, images: ImageFolder) -> Sample:
    key, image, phrase, box = _reference(record, images)
    return Sample(key, (image,), (Turn(phrase, box_text(box)),), boxes=(box,))


def _identify(record: Record, images: ImageFolder) -> Sample:
    key, image, phrase, box = _reference(record, images)
    return Sample(key, (image,), (Turn(box_text(box), phrase),), answers=(phrase,), boxes=(box,))


def _reference(record: Record, images: ImageFolder) -> tuple[str, ImageReference, str, Box]:
    phrase, name = _phrase(record["sents"]), record["img_id"].rpartition("_")[0]
    box = _fractions(record["bbox"], record["width"], record["height"])
    image = images.find_coco(int(name.rpartition("_")[2]), f"{name}.jpg")
    images.check_size(image, record["width"], record["height"])
    return f"{record['img_id']}/{phrase}", image, phrase, box


# Visual Genome


def _region_records(files: Files) -> Iterator[Record | RejectedError]:
    images, rejected = index(array(files["images"]), "image_id", only("url", "width", "height"))
    yield from rejected
    for described in array(files["annotations"]):
        regions = described.get("regions") if isinstance(described, dict) else None
        if isinstance(regions, list):
            yield from each(regions, lambda region: {"image": images.get(region["image_id"]), **region})
        else:
            yield RejectedError("malformed_record")


def _region(record: Record, images: ImageFolder) -> Sample:
    if record["image"] is None:
        raise RejectedError("unknown_image")
    if record["width"] * record["height"] >= _LARGEST_REGION:
        raise RejectedError("large_region")
    about, phrase = record["image"], _phrase(record["phrase"])
    across, down = about["width"], about["height"]
    box = _fractions([record["x"], record["y"], record["width"], record["height"]], across, down)
    *_, folder, file = about["url"].split("/")  # images came as two archives, VG_100K and VG_100K_2
    image = images.find(f"{folder}/{file}", file)
    images.check_size(image, across, down)
    return Sample(str(record["region_id"]), (image,), (Turn(phrase, box_text(box)),), boxes=(box,))


# Flickr30k


def _grounded_caption(record: Record, images: ImageFolder) -> Sample:
    return _flickr(record, images, "", record["grounded_caption"])


def _caption_to_boxes(record: Record, images: ImageFolder) -> Sample:
    return _flickr(record, images, record["caption"], record["output"])


def _phrase_to_boxes(record: Record, images: ImageFolder) -> Sample:
    phrase = _phrase(record["phrase"])
    return _flickr(record, images, phrase, f"<p>{phrase}</p> {record['bbox']}")


def _flickr(record: Record, images: ImageFolder, asked: str, answer: str) -> Sample:
    boxes = tuple(CODECS["percent"].read(answer))
    if any(max(box) > 1 or box[0] > box[2] or box[1] > box[3] for box in boxes):
        raise RejectedError("box_outside_image")
    if not boxes:
        raise RejectedError("no_box")
    image = images.find(f"{record['image_id']}.jpg")
    return Sample(f"{record['image_id']}/{asked or answer}", (image,), (Turn(asked, answer.strip()),), boxes=boxes)


def _phrase(text: str) -> str:
    phrase = text.strip()
    if not phrase:
        raise RejectedError("empty_phrase")
    return phrase


def _fractions(box: list[float], across: float, down: float) -> Box:
    """[x, y, width, height] in px as fractions of an image; a rounding beyond its edges is cut off."""
    x, y, width, height = box
    within = x + width <= across + _BOX_TOLERANCE and y + height <= down + _BOX_TOLERANCE
    if min(x, y) < -_BOX_TOLERANCE or not within or width <= 0 or height <= 0:
        raise RejectedError("box_outside_image")
    edges = (x / across, y / down, (x + width) / across, (y + height) / down)
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
    return x0, y0, x1, y1


_REFCOCO_FILES = ({"annotations"}, {"instances", "refs"})
REFER = Layout(_REFCOCO_FILES, _refcoco_records, _refer)
IDENTIFY = Layout(_REFCOCO_FILES, _refcoco_records, _identify)
REGIONS = Layout(({"annotations", "images"},), _region_records, _region)
GROUNDED_CAPTION = Layout(ONE_FILE, records, _grounded_caption)
CAPTION_TO_BOXES = Layout(ONE_FILE, records, _caption_to_boxes)
PHRASE_TO_BOXES = Layout(ONE_FILE, records, _phrase_to_boxes)
