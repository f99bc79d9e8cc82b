"""A picture's first frame → rows of opaque 8-bit RGB, by Pillow and its plug-ins.

Decoders get what pixels need and nothing else (see `Still`), so what is not the picture cannot decide about it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tinygptv.data import gif, isobmff, jpeg, png, tiff, webp
from tinygptv.data.formats import Format, PictureError, Still
from tinygptv.data.plugins import plugin

Pixels = NDArray[np.uint8]
"""(height, width, 4): red, green, blue, and a byte without meaning. Four are read faster than three."""

_READERS = {
    "png": png.read_still,
    "gif": gif.read_still,
    "webp": webp.read_still,
    "tiff": tiff.read_still,
    "avif": isobmff.read_still,
    "heic": isobmff.read_still,
}
_WITHOUT_A_WHITE = ("I", "F", "LAB")
"""Modes of numbers that nothing says the range of, or that Pillow does not convert."""
_WHITE = 255
_MAX_16 = np.uint16(65535)
_PHOTOMETRIC = 262


def read_still(body: bytes, kind: Format) -> Still:
    """What a decoder of this format needs of a file. Raises PictureError."""
    if kind in _READERS:
        return _READERS[kind](body)
    size = int.from_bytes(body[2:6], "little") if kind == "bmp" else 0
    return Still(body, is_cut=size > len(body))


def open_still(still: Still, kind: Format) -> Image.Image:
    """The frame, not yet decoded. Raises PictureError."""
    with reading(still):
        if kind == "heic":
            package = plugin(kind)
            if package is None:
                raise PictureError("unsupported_format")
            return package.HeifImageFile(io.BytesIO(still.data))
        try:
            return Image.open(io.BytesIO(still.data), formats=[kind.upper()])
        except OSError as error:  # Pillow's words for a sound file of a kind that it does not know
            if not still.is_cut and (kind == "tiff" or "Unsupported BMP" in str(error)):
                raise PictureError("unsupported_format") from None
            raise


def orientation(image: Image.Image, still: Still) -> int:
    """As EXIF says it. Pillow also says so what properties of an AVIF picture say."""
    if image.format != "AVIF":
        return still.orientation
    return jpeg.orientation_of(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))


def load(image: Image.Image, still: Still) -> Image.Image:
    """The frame, decoded. Raises PictureError."""
    size = image.size
    with reading(still):
        image.load()
    if image.size != size:
        raise PictureError("damaged_image")
    if image.mode in _WITHOUT_A_WHITE:
        raise PictureError("unsupported_format")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(_WHITE)  # browsers, too, take an alpha channel without content for none
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2[_PHOTOMETRIC] == 0:
        return Image.fromarray(_MAX_16 - np.asarray(image).astype(np.uint16))  # white is zero, which Pillow overlooks
    return image


def rows(image: Image.Image, still: Still, top: int, end: int) -> Pixels:
    """Rows of the canvas, from one up to another: (end - top, width, 4)."""
    width = still.width or image.width
    first, last = max(top, still.top), min(end, still.top + image.height)
    if image.width == width and (first, last) == (top, end):
        return _opaque(image, first - still.top, last - still.top)
    strip = np.full((end - top, width, 4), _WHITE, np.uint8)
    if first < last:
        part = _opaque(image, first - still.top, last - still.top)
        strip[first - top : last - top, still.left : still.left + image.width] = part
    return strip


@contextmanager
def reading(still: Still) -> Iterator[None]:
    """What a decoder says of a file, in one word."""
    try:
        yield
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise PictureError("too_many_pixels") from None
    except Exception:  # on bytes that are not what they seem, a dozen parsers raise whatever they stumble over
        raise PictureError("truncated_image" if still.is_cut else "damaged_image") from None


def _opaque(image: Image.Image, top: int, end: int) -> Pixels:
    strip = _rgb(image.crop((0, top, image.width, end))).tobytes("raw", "RGBX")
    return np.frombuffer(strip, np.uint8).reshape(end - top, image.width, 4)


def _rgb(image: Image.Image) -> Image.Image:
    """Eight bits, three channels, nothing transparent."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        shown = (levels >> 8).astype(np.uint8)
        shown[levels == image.info.get("transparency", -1)] = _WHITE
        return Image.fromarray(shown).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")
