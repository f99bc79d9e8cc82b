"""Pictures as part of a page: small, inside the HTML itself, with boxes drawn over them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from tinygptv.data.pictures.pixels import open_picture
from tinygptv.data.prompting.boxes import Box
from tinygptv.errors import DataError

TRUTH_COLOUR, PREDICTED_COLOUR = "#3b82f6", "#e8730c"
_SIDE = 240
_TINY = 96


@dataclass(frozen=True)
class DrawnBox:
    """A rectangle in percent of the picture."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    predicted: bool


@dataclass(frozen=True)
class Picture:
    """`uri` is the picture itself as text, None if it could not be read (`absent` says why); `tiny` ones are shown with
    visible pixels."""

    uri: str | None
    tiny: bool = False
    boxes: tuple[DrawnBox, ...] = ()
    absent: str = ""


def picture(path: Path, truth: Box | None = None, predicted: Box | None = None) -> Picture:
    """A picture file for the page, at most 240 px wide or high."""
    try:
        shown = open_picture(path.read_bytes(), str(path))
    except (OSError, DataError):
        return Picture(None, absent="picture not readable")
    tiny = max(shown.size) <= _TINY
    shown.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    shown.save(stream, "PNG" if tiny else "JPEG", quality=82)
    kind = "png" if tiny else "jpeg"
    boxes = [_drawn(box, colour) for box, colour in ((truth, TRUTH_COLOUR), (predicted, PREDICTED_COLOUR)) if box]
    uri = f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Picture(uri, tiny, tuple(boxes))


def _drawn(box: Box, colour: str) -> DrawnBox:
    x0, y0, x1, y1 = (round(100 * edge, 2) for edge in box)
    return DrawnBox(x0, y0, max(x1 - x0, 0.0), max(y1 - y0, 0.0), colour, colour == PREDICTED_COLOUR)
