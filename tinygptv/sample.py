"""A sample, its turns and image references, and the special values in `input_ids` and `labels`."""

from dataclasses import dataclass

IMAGE_PLACE = "<ImageHere>"
"""Placeholder for an image in an instruction or prompt. Never tokenised."""

IMAGE_SLOT = -1
"""Placeholder in `input_ids` for one image embedding. Images fill the slots of a batch in reading order."""

IGNORE_INDEX = -100
"""Value in `labels` of positions without loss."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. An empty `instruction` means the answer follows the image directly (stages 1-2)."""

    instruction: str
    answer: str


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The location of image bytes: a whole file (`length` 0), or `length` bytes from `offset` inside a shard.

    `path` is absolute, an `s3://` URL, or relative to the artifact that refers to it. `upright` applies the EXIF
    rotation; images of annotated datasets are read without it, because their boxes refer to the stored pixels.
    """

    path: str
    offset: int = 0
    length: int = 0
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or evaluation item, text only if `images` is empty. `answers` lists accepted answers, for scoring.

    Images are in reading order: one for each IMAGE_PLACE in the instructions, or all before the first instruction if
    the counts differ. `boxes` are those written in the turns, in reading order, as (x0, y0, x1, y1) in fractions of
    width and height; the first is the ground truth of referring items.
    """

    key: str
    images: tuple[ImageReference, ...]
    turns: tuple[Turn, ...]
    source: str = ""
    group: str = ""
    answers: tuple[str, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
