"""Descriptions of whole images: cc_sbu_align, COCO captions as published and as Karpathy split them, TextCaps."""

from collections import defaultdict
from collections.abc import Iterator

from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.annotations.records import (
    MALFORMED,
    ONE_FILE,
    Files,
    Layout,
    Record,
    RejectedError,
    array,
    each,
    in_list,
    member,
)
from tinygptv.sample import Sample, Turn


def _align(record: Record, images: ImageFolder) -> Sample:
    image_id = str(record["image_id"])
    return Sample(image_id, (images.find(f"{image_id}.jpg"),), (Turn("", record["caption"].strip()),))


def _coco_records(files: Files) -> Iterator[Record | RejectedError]:
    """One record per image, with all its captions."""
    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in member(files["annotations"], "annotations"):
        try:
            captions[annotation["image_id"]].append(annotation["caption"].strip())
        except MALFORMED:
            yield RejectedError("malformed_record")
    shown = member(files["annotations"], "images")
    yield from each(shown, lambda image: {**image, "captions": captions.pop(image["id"], [])})
    yield from ({"id": image_id, "captions": left} for image_id, left in captions.items())


def _coco(record: Record, images: ImageFolder) -> Sample:
    captions = tuple(caption for caption in record["captions"] if caption)
    if not captions:
        raise RejectedError("no_caption")
    named = (record["file_name"],) if "file_name" in record else ()
    image = images.find_coco(record["id"], *named)
    return Sample(str(record["id"]), (image,), (Turn("", captions[0]),), answers=captions)


def _karpathy_records(files: Files) -> Iterator[Record | RejectedError]:
    """What lies in a `train` folder is the split train; Karpathy's training list takes in images of val2014 too."""
    return each(
        array(files["annotations"]),
        lambda record: {"split": "train" if "train" in record["image"] else "restval", **record},
    )


def _karpathy(record: Record, images: ImageFolder) -> Sample:
    name, caption = record["image"], record["caption"].strip()
    image = images.find(name, name.rpartition("/")[2])
    return Sample(f"{record['image_id']}/{caption}", (image,), (Turn("", caption),))


def _textcaps(record: Record, images: ImageFolder) -> Sample:
    name = record.get("image_path") or f"{record['image_id']}.jpg"
    image = images.find(name, name.rpartition("/")[2])
    key = f"{record['image_id']}/{record['caption_id']}"
    return Sample(key, (image,), (Turn("", record["caption_str"].strip()),))


ALIGN = Layout(ONE_FILE, in_list("annotations"), _align)
COCO = Layout(ONE_FILE, _coco_records, _coco)
KARPATHY = Layout(ONE_FILE, _karpathy_records, _karpathy)
TEXTCAPS = Layout(ONE_FILE, in_list("data"), _textcaps)
