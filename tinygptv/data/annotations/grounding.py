"""Phrases and where they are: RefCOCO and its inverse, Visual Genome regions, Flickr30k's captions and phrases.

A record of the first three becomes `img_id`, `sents`, `bbox` [x, y, width, height] in px, `width`, `height` of the
image: the layout in which MiniGPT-v2 evaluates RefCOCO. Flickr30k's boxes stand in its texts already.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from tinygptv.data.annotations.fields import Id, Part, Record, RejectedError, as_number
from tinygptv.data.annotations.pixel_boxes import PixelBox, fractions, refuse_corners
from tinygptv.data.annotations.plain_pickle import read_plain_pickle
from tinygptv.data.annotations.records import ONE_FILE, Layout, Reading, array, each, index
from tinygptv.data.prompting.boxes import CODECS, Box, box_text
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample, Turn

_LARGEST_REGION = 16_384  # px²; larger regions of Visual Genome are hardly worth pointing at (OFA, MiniGPT-v2)

_Side = Annotated[float, Field(gt=0, le=1e6)]
"""Of an image, in px."""


class _About(NamedTuple):
    """What is kept of a picture that many boxes are in; width and height in px."""

    name: str
    width: float
    height: float


# RefCOCO


class _Referred(Record):
    img_id: str
    sents: str
    bbox: PixelBox
    width: _Side
    height: _Side


class _Sentence(Part):
    ignored = frozenset({"tokens", "sent", "sent_id"})

    raw: str


class _Ref(Part):
    ignored = frozenset({"sent_ids", "file_name", "category_id"})

    ref_id: Id
    ann_id: Id
    image_id: Id
    split: str
    sentences: list[Any]


class _Instance(Part):
    ignored = frozenset({"segmentation", "area", "iscrowd", "image_id", "category_id"})

    id: Id
    bbox: PixelBox


class _InstanceImage(Part):
    ignored = frozenset({"license", "coco_url", "date_captured", "flickr_url"})

    id: Id
    file_name: str
    width: _Side
    height: _Side

    def about(self) -> _About:
        return _About(self.file_name, self.width, self.height)


def _refcoco_records(reading: Reading) -> Iterator[_Referred | RejectedError]:
    """One record per phrase, of MiniGPT-v2's list, or of the official `instances.json` and pickle of `refs`."""
    records = _joined(reading) if "refs" in reading.files else reading.records(_Referred)
    yield from refuse_corners(records, lambda record: (record.bbox, record.width, record.height), reading)


def _joined(reading: Reading) -> Iterator[_Referred | RejectedError]:
    instances = reading.member("instances", "annotations", _Instance)
    boxes, rejected = index(instances, lambda instance: instance.id, lambda instance: instance.bbox)
    yield from rejected
    pictures = reading.member("instances", "images", _InstanceImage)
    images, rejected = index(pictures, lambda picture: picture.id, _InstanceImage.about)
    yield from rejected
    for ref in reading.parts(_Ref, _refs(reading), "refs"):
        if isinstance(ref, RejectedError):
            yield ref
            continue
        image, box = images.get(ref.image_id), boxes.get(ref.ann_id)
        if image is None or box is None:
            yield from (RejectedError("unknown_image" if image is None else "no_box") for _ in ref.sentences)
            continue
        sentences = reading.parts(_Sentence, ref.sentences)
        yield from each(sentences, functools.partial(_referred, ref, image, box))


def _referred(ref: _Ref, image: _About, box: list[float], sentence: _Sentence) -> _Referred:
    key = f"{image.name.removesuffix('.jpg')}_{ref.ref_id}"
    size = {"width": image.width, "height": image.height}
    return _Referred(img_id=key, sents=sentence.raw, split=ref.split, bbox=box, **size)


def _refs(reading: Reading) -> list[Any]:
    path = reading.files["refs"]
    refs = list(array(path)) if path.suffix == ".json" else read_plain_pickle(path)
    if not isinstance(refs, list):
        needed = ", ".join(_Ref.model_fields)
        raise DataError(f"{path}: want a list of references with {needed}; is this the right file?")
    return refs


def _refer(record: _Referred, reading: Reading) -> Sample:
    key, image, phrase, box = _reference(record, reading)
    return Sample(key, (image,), (Turn(phrase, box_text(box)),), boxes=(box,))


def _identify(record: _Referred, reading: Reading) -> Sample:
    key, image, phrase, box = _reference(record, reading)
    return Sample(key, (image,), (Turn(box_text(box), phrase),), answers=(phrase,), boxes=(box,))


def _reference(record: _Referred, reading: Reading) -> tuple[str, ImageReference, str, Box]:
    phrase, name = _phrase(record.sents), record.img_id.rpartition("_")[0]
    box = fractions(record.bbox, record.width, record.height)
    number, images = as_number(name.rpartition("_")[2]), reading.images
    image = images.find(f"{name}.jpg") if number is None else images.find_coco(number, f"{name}.jpg")
    images.check_size(image, record.width, record.height)
    return f"{record.img_id}/{phrase}", image, phrase, box


# Visual Genome


class _Region(Record):
    ignored = frozenset({"synsets"})

    region_id: Id
    image_id: Id
    phrase: str
    x: float
    y: float
    width: float
    height: float


class _Described(Part):
    ignored = frozenset({"id"})

    regions: list[Any]


class _Picture(Part):
    ignored = frozenset({"coco_id", "flickr_id"})

    image_id: Id
    url: str
    width: _Side
    height: _Side

    def about(self) -> _About:
        return _About(self.url, self.width, self.height)


@dataclass
class _Shown:
    """A region and the picture it is in."""

    region: _Region
    picture: _About | None

    @property
    def split(self) -> str | None:
        return self.region.split


def _region_records(reading: Reading) -> Iterator[_Shown | RejectedError]:
    pictures, rejected = index(reading.array("images", _Picture), lambda picture: picture.image_id, _Picture.about)
    yield from rejected
    for described in reading.array("annotations", _Described):
        if isinstance(described, RejectedError):
            yield described
        else:
            regions = reading.parts(_Region, described.regions)
            yield from each(regions, lambda region: _Shown(region, pictures.get(region.image_id)))


def _region(record: _Shown, reading: Reading) -> Sample:
    region, about = record.region, record.picture
    if about is None:
        raise RejectedError("unknown_image")
    if region.width * region.height >= _LARGEST_REGION:
        raise RejectedError("large_region")
    phrase = _phrase(region.phrase)
    box = fractions([region.x, region.y, region.width, region.height], about.width, about.height)
    names = about.name.split("/")[-2:]  # images came as two archives, VG_100K and VG_100K_2
    image = reading.images.find("/".join(names), names[-1])
    reading.images.check_size(image, about.width, about.height)
    return Sample(region.region_id, (image,), (Turn(phrase, box_text(box)),), boxes=(box,))


# Flickr30k


class _GroundedCaption(Record):
    image_id: Id
    grounded_caption: str


class _CaptionToBoxes(Record):
    image_id: Id
    caption: str
    output: str


class _PhraseToBoxes(Record):
    image_id: Id
    phrase: str
    bbox: str


def _grounded_caption(record: _GroundedCaption, reading: Reading) -> Sample:
    return _flickr(record.image_id, reading, "", record.grounded_caption)


def _caption_to_boxes(record: _CaptionToBoxes, reading: Reading) -> Sample:
    return _flickr(record.image_id, reading, record.caption, record.output)


def _phrase_to_boxes(record: _PhraseToBoxes, reading: Reading) -> Sample:
    phrase = _phrase(record.phrase)
    return _flickr(record.image_id, reading, phrase, f"<p>{phrase}</p> {record.bbox}")


def _flickr(image_id: str, reading: Reading, asked: str, answer: str) -> Sample:
    boxes = tuple(CODECS["percent"].read(answer))
    if not boxes:
        raise RejectedError("no_box")
    image = reading.images.find(f"{image_id}.jpg")
    return Sample(f"{image_id}/{asked or answer}", (image,), (Turn(asked, answer.strip()),), boxes=boxes)


def _phrase(text: str) -> str:
    phrase = text.strip()
    if not phrase:
        raise RejectedError("empty_phrase")
    return phrase


_REFCOCO_FILES = ({"annotations"}, {"instances", "refs"})
_REFCOCO_PARTS = (_Referred, _Ref, _Sentence, _Instance, _InstanceImage)
REFER = Layout(_REFCOCO_FILES, _REFCOCO_PARTS, _refcoco_records, _refer)
IDENTIFY = Layout(_REFCOCO_FILES, _REFCOCO_PARTS, _refcoco_records, _identify)
REGIONS = Layout(({"annotations", "images"},), (_Region, _Described, _Picture), _region_records, _region)
GROUNDED_CAPTION = Layout(
    ONE_FILE, (_GroundedCaption,), lambda reading: reading.records(_GroundedCaption), _grounded_caption
)
CAPTION_TO_BOXES = Layout(
    ONE_FILE, (_CaptionToBoxes,), lambda reading: reading.records(_CaptionToBoxes), _caption_to_boxes
)
PHRASE_TO_BOXES = Layout(ONE_FILE, (_PhraseToBoxes,), lambda reading: reading.records(_PhraseToBoxes), _phrase_to_boxes)
