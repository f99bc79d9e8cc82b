"""Boxes [x, y, width, height] in px as fractions of their image, and how boxes in other measures are told from them."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, TypeVar

from pydantic import Field

from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.annotations.records import Reading
from tinygptv.data.prompting.boxes import Box
from tinygptv.errors import DataError

PixelBox = Annotated[list[float], Field(min_length=4, max_length=4)]
"""x, y, width, height."""

_TOLERANCE = 1.0  # px; published boxes are rounded
_FEWEST = 10
"""Boxes that must all look like corners before a file is refused. 42 % of RefCOCO's do, so ten by chance are 1 file in
5,000; and none of RefCOCO's reaches beyond its image."""

logger = logging.getLogger(__name__)
_R = TypeVar("_R")


def fractions(box: list[float], across: float, down: float) -> Box:
    """A box in px in fractions of an image of `across` x `down` px; a rounding beyond its edges is cut off.

    Raises RejectedError for a box beyond the image, without an area, or in fractions already.
    """
    x, y, width, height = box
    if min(box) >= 0 and max(box) <= 1 < min(across, down):
        raise RejectedError("box_in_fractions", f"{box} are no px of an image of {across:g} x {down:g}")
    within = x + width <= across + _TOLERANCE and y + height <= down + _TOLERANCE
    if min(x, y) < -_TOLERANCE or not within or width <= 0 or height <= 0:
        found = f"{box} is not x, y, width, height in px of an image of {across:g} x {down:g}"
        raise RejectedError("box_outside_image", found)
    edges = (x / across, y / down, (x + width) / across, (y + height) / down)
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
    return x0, y0, x1, y1


def refuse_corners(
    records: Iterable[_R | RejectedError], box_of: Callable[[_R], tuple[list[float], float, float]], reading: Reading
) -> Iterator[_R | RejectedError]:
    """The records, unless all boxes would be right as corners x0, y0, x1, y1 and some are not as x, y, width, height:
    then those that fit into their image by chance are wrong, too. `box_of` gives a box, and width and height of its
    image.

    Raises DataError at the end of such records; where all fit either way, a warning says so.
    """
    boxes = corners = beyond = 0
    for record in records:
        if not isinstance(record, RejectedError):
            (x, y, width, height), across, down = box_of(record)
            boxes += 1
            corners += x < width <= across + _TOLERANCE and y < height <= down + _TOLERANCE
            beyond += x + width > across + _TOLERANCE or y + height > down + _TOLERANCE
        yield record
    if corners < boxes or boxes < _FEWEST:
        return
    files = ", ".join(map(str, reading.files.values()))
    if beyond:
        raise DataError(
            f"{files}: {beyond} of {boxes} boxes reach beyond their image, and all of them would be right as corners "
            "x0, y0, x1, y1; write x, y, width, height in px"
        )
    logger.warning("%s: all %d boxes would be right as corners, too; read as x, y, width, height in px", files, boxes)
