"""The values the journey carries: a sample, its turns, where its image lies, and the two marks in a batch's ids."""

from dataclasses import dataclass, field

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

    `path` is absolute, or relative to the artifact that names it.
    """

    path: str
    offset: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or evaluation item; `image` is None for text only. `answers` are accepted answers, for scoring.

    `box` is (x0, y0, x1, y1) in fractions of width and height, the ground truth of referring items.
    """

    key: str
    image: ImageReference | None
    turns: tuple[Turn, ...]
    source: str = ""
    group: str = ""
    answers: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
