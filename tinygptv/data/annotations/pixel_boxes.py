"""Boxes [x, y, width, height] in px → fractions of their image, and detection of boxes in other units."""

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
_MIN_BOXES = 10
"""Minimum number of boxes for rejecting a file whose boxes all look like corners. 42 % of RefCOCO's do, so ten by
chance occur once in 5,000 files; none of RefCOCO's boxes reaches beyond its image."""

logger = logging.getLogger(__name__)
_R = TypeVar("_R")


def fractions(box: list[float], across: float, down: float) -> Box:
    """Convert a box in px to fractions of an image of `across` x `down` px; rounding beyond the edges is clipped.

    Raises RejectedError for a box beyond the image, without an area, or already in fractions.
    """
    x, y, width, height = box
    if min(box) >= 0 and max(box) <= 1 < min(across, down):
        raise RejectedError("box_in_fractions", f"{box} is not in px of an image of {across:g} x {down:g}")
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
    """Yield the records, and check whether boxes are corners x0, y0, x1, y1 instead of x, y, width, height.

    They are if all are valid as corners and some are invalid as x, y, width, height; those that fit by chance are then
    wrong too. `box_of` returns a record's box and its image's width and height. Raises DataError after the last record
    if so; logs a warning if all boxes are valid either way.
    """
    boxes = corners = beyond = 0
    for record in records:
        if not isinstance(record, RejectedError):
            (x, y, width, height), across, down = box_of(record)
            boxes += 1
            corners += x < width <= across + _TOLERANCE and y < height <= down + _TOLERANCE
            beyond += x + width > across + _TOLERANCE or y + height > down + _TOLERANCE
        yield record
    if corners < boxes or boxes < _MIN_BOXES:
        return
    files = ", ".join(map(str, reading.files.values()))
    if beyond:
        raise DataError(
            f"{files}: {beyond} of {boxes} boxes reach beyond their image, and all of them are valid as corners "
            "x0, y0, x1, y1; write x, y, width, height in px"
        )
    logger.warning("%s: all %d boxes are also valid as corners; read as x, y, width, height in px", files, boxes)
