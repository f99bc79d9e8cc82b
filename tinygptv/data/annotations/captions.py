"""Captions of whole images: cc_sbu_align, COCO captions as published and in Karpathy's split, TextCaps."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tinygptv.data.annotations.fields import Id, Number, Part, Record, RejectedError
from tinygptv.data.annotations.images import with_folder
from tinygptv.data.annotations.records import ONE_FILE, Layout, Reading, each
from tinygptv.sample import Sample, Turn


class _Aligned(Record):
    image_id: Id
    caption: str


class _CocoCaption(Part):
    ignored = frozenset({"id"})

    image_id: Number
    caption: str


class _CocoImage(Part):
    ignored = frozenset({"license", "coco_url", "height", "width", "date_captured", "flickr_url"})

    id: Number
    file_name: str | None = None


class _KarpathyCaption(Record):
    image: str
    image_id: Id
    caption: str


class _TextCap(Record):
    ignored = frozenset(
        (
            *("image_name", "image_width", "image_height", "image_classes", "set_name", "caption_tokens"),
            *("flickr_original_url", "flickr_300k_url", "reference_strs", "reference_tokens"),
        )
    )

    image_id: Id
    caption_id: Id
    caption_str: str
    image_path: str | None = None


@dataclass
class _Captioned:
    """A COCO image with all its captions."""

    image_id: int
    captions: tuple[str, ...]
    name: str | None = None
    split: str | None = None


def _align(record: _Aligned, reading: Reading) -> Sample:
    image = reading.images.find(f"{record.image_id}.jpg")
    return Sample(record.image_id, (image,), (Turn("", record.caption.strip()),))


def _coco_records(reading: Reading) -> Iterator[_Captioned | RejectedError]:
    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in reading.member("annotations", "annotations", _CocoCaption):
        if isinstance(annotation, RejectedError):
            yield annotation
        else:
            captions[annotation.image_id].append(annotation.caption.strip())
    shown = reading.member("annotations", "images", _CocoImage)
    yield from each(shown, lambda image: _Captioned(image.id, tuple(captions.pop(image.id, ())), image.file_name))
    yield from (_Captioned(image_id, tuple(left)) for image_id, left in captions.items())


def _coco(record: _Captioned, reading: Reading) -> Sample:
    captions = tuple(caption for caption in record.captions if caption)
    if not captions:
        raise RejectedError("no_caption")
    image = reading.images.find_coco(record.image_id, *((record.name,) if record.name is not None else ()))
    return Sample(str(record.image_id), (image,), (Turn("", captions[0]),), answers=captions)


def _karpathy_records(reading: Reading) -> Iterator[_KarpathyCaption | RejectedError]:
    """Derive the split from the folder: `train` is train, the rest of Karpathy's training list is restval."""
    for record in reading.array("annotations", _KarpathyCaption):
        if not isinstance(record, RejectedError) and record.split is None:
            record.split = "train" if "train" in record.image else "restval"
        yield record


def _karpathy(record: _KarpathyCaption, reading: Reading) -> Sample:
    caption = record.caption.strip()
    image = reading.images.find(*with_folder(record.image))
    return Sample(f"{record.image_id}/{caption}", (image,), (Turn("", caption),))


def _textcaps(record: _TextCap, reading: Reading) -> Sample:
    image = reading.images.find(*with_folder(record.image_path or f"{record.image_id}.jpg"))
    return Sample(f"{record.image_id}/{record.caption_id}", (image,), (Turn("", record.caption_str.strip()),))


ALIGN = Layout(ONE_FILE, (_Aligned,), lambda reading: reading.member("annotations", "annotations", _Aligned), _align)
COCO = Layout(ONE_FILE, (_CocoImage, _CocoCaption), _coco_records, _coco)
KARPATHY = Layout(ONE_FILE, (_KarpathyCaption,), _karpathy_records, _karpathy)
TEXTCAPS = Layout(ONE_FILE, (_TextCap,), lambda reading: reading.member("annotations", "data", _TextCap), _textcaps)
