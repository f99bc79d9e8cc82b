"""Encoded bytes → the whole first frame as opaque 8-bit RGB: what models and people look at.

It is decoded as what is stored is (see `decoding` and `pictures`), and refused for the same reasons. What EXIF says of
orientation is told, not applied: that is for the caller to decide.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tinygptv.data.pictures import decoding
from tinygptv.data.pictures.decoding import Pixels
from tinygptv.data.pictures.formats import PictureError, Still, sniff

_SNIFFED_BYTES = 4096
"""Enough for a file's brands."""
_TURNS = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
_MIRRORED = (2, 4, 5, 7)
"""EXIF orientations: quarter turns to the left that make a picture upright, and which are then mirrored."""


def first_frame(body: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The first frame of an encoded picture, whole: of mode RGB, or RGBX whose fourth byte has no meaning; and the
    orientation that EXIF says. Raises PictureError."""
    kind = sniff(body)
    if kind == "jxl":
        header = decoding.read_jxl(body)
        _check_pixels(header.width, header.height, max_pixels)
        unpacked = decoding.decode_jxl(body, header)
        if isinstance(unpacked, bytes):
            return first_frame(unpacked, max_pixels)
        with decoding.reading(Still(body)):
            return _canvas(unpacked, Still(body)), 1
    if kind == "jpeg":
        layout, plain = decoding.read_jpeg(body)
        _check_pixels(layout.width, layout.height, max_pixels)
        if layout.has_gaps:
            plain = decoding.only_pixels(plain)
        if layout.components != 4:
            _, pixels = decoding.decode_jpeg(plain)
            size = layout.width, layout.height
            return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1), layout.orientation
        still = Still(plain, orientation=layout.orientation)
    else:
        still = decoding.read_still(body, kind)
    _check_pixels(still.width or 0, still.height or 0, max_pixels)
    image = decoding.open_still(still, kind)
    _check_pixels(image.width, image.height, max_pixels)
    turn = decoding.orientation(image, still)
    image = decoding.load(image, still)
    with decoding.reading(still):
        frame = _canvas(image, still)
    if kind == "avif":  # what its properties say is not EXIF but how its pixels are coded; HEIC's decoder applies that
        return Image.fromarray(np.ascontiguousarray(upright(np.asarray(frame), turn))), 1
    return frame, turn


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in px as a file's header says them, before any orientation; nothing is decoded. Raises
    PictureError, and OSError if there is no such file."""
    with path.open("rb") as stream:
        kind = sniff(stream.read(_SNIFFED_BYTES))
        if kind == "jxl":
            stream.seek(0)
            header = decoding.read_jxl(stream.read(_SNIFFED_BYTES))
            return header.width, header.height
        stream.seek(0)
        with decoding.reading(Still(b"")), decoding.opened(stream, kind) as image:
            return image.size


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """(height, width, channels) turned and mirrored as an EXIF orientation asks for."""
    turned = np.rot90(pixels, _TURNS.get(orientation, 0))
    return turned[:, ::-1] if orientation in _MIRRORED else turned


def _canvas(image: Image.Image, still: Still) -> Image.Image:
    """The whole canvas at once, of mode RGB."""
    width, height = still.width or image.width, still.height or image.height
    frame = decoding.rgb(image)
    if frame.size == (width, height):
        return frame
    whole = Image.new("RGB", (width, height), "white")
    whole.paste(frame, (still.left, still.top))
    return whole


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureError("too_many_pixels")
