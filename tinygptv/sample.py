"""The values the journey carries: a sample, its turns, where its image lies, and the two marks in a batch's ids."""

from dataclasses import dataclass

IMAGE_PLACE = "<ImageHere>"
"""In an instruction or prompt: an image is shown here. It is never tokenised itself."""

IMAGE_SLOT = -1
"""In `input_ids`: one image embedding goes here. Images fill the slots of a batch in reading order."""

IGNORE_INDEX = -100
"""In `labels`: nothing is learned here."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. An empty `instruction` means the answer follows the image directly (stages 1-2)."""

    instruction: str
    answer: str


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where image bytes lie: a whole file (`length` 0) or `length` bytes from `offset` inside a shard.

    `path` is absolute, an `s3://` address, or relative to the artifact that names it. `upright` asks for the rotation
    that EXIF says, as people see a photograph; pictures beside annotations are read as they are coded.
    """

    path: str
    offset: int = 0
    length: int = 0
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or evaluation item; text only without `images`. `answers` are accepted answers, for scoring.

    Images are in reading order: each is shown where an instruction says IMAGE_PLACE, or all before the first one if
    there are not as many places. `boxes` are those that the turns write, in reading order, as (x0, y0, x1, y1) in
    fractions of width and height; the first is the ground truth of referring items.
    """

    key: str
    images: tuple[ImageReference, ...]
    turns: tuple[Turn, ...]
    source: str = ""
    group: str = ""
    answers: tuple[str, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
