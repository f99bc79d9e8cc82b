"""A picture's first frame → rows of opaque 8-bit RGB, step by step: what is read of a file, opened, decoded.

Decoders get what pixels need and nothing else (see `Still`), so what is not the picture cannot decide about it.
Transparency is blended on white, and so is what a frame leaves of its canvas; 16 bits are scaled to 8; palettes, grey
and CMYK become RGB. JPEGs are read by libjpeg-turbo, CMYK ones and all other formats by Pillow and its plug-ins.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tinygptv.data.pictures import gif, isobmff, jpeg, jpeg_scans, jxl, png, tiff, webp
from tinygptv.data.pictures.formats import Format, PictureError, Still
from tinygptv.data.pictures.jpeg import JpegLayout
from tinygptv.data.pictures.plugins import plugin

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

_STRAY_BYTES = "extraneous bytes before marker"
"""What libjpeg says of them, but also of a picture that lost its place."""
_JXL_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def read_jpeg(body: bytes) -> tuple[JpegLayout, bytes]:
    """A JPEG's layout, and the file without metadata. Raises PictureError."""
    try:
        layout = jpeg.read_layout(body)
        plain = layout.without_metadata(body)
    except jpeg.UnsupportedJpegError:
        raise PictureError("unsupported_format") from None
    except jpeg.TruncatedJpegError:
        raise PictureError("truncated_image") from None
    except ValueError:
        raise PictureError("damaged_image") from None
    return layout, plain


def only_pixels(plain: bytes) -> bytes:
    """A JPEG without bytes that belong to no segment. Raises PictureError."""
    try:
        return jpeg_scans.without_stray_bytes(plain)
    except jpeg_scans.ScanError:
        raise PictureError("damaged_image") from None


def decode_jpeg(plain: bytes) -> tuple[bytes, Pixels]:
    """The pixels of a JPEG that is not CMYK, and the file without stray bytes that its decoder would warn of. Raises
    PictureError."""
    try:
        return plain, simplejpeg.decode_jpeg(plain, "RGBX")
    except ValueError as error:
        if _STRAY_BYTES not in str(error):
            raise PictureError("damaged_image") from None
    plain = only_pixels(plain)
    try:
        return plain, simplejpeg.decode_jpeg(plain, "RGBX")
    except ValueError:
        raise PictureError("damaged_image") from None


def read_jxl(body: bytes) -> jxl.Header:
    """A JPEG XL's header. Raises PictureError, also if the package that decodes it is not installed."""
    if plugin("jxl") is None:
        raise PictureError("unsupported_format")
    with reading(Still(body)):
        return jxl.read_header(body)


def decode_jxl(body: bytes, header: jxl.Header) -> bytes | Image.Image:
    """The JPEG that was packed losslessly, to the bit; else its pixels, which are upright. Raises PictureError."""
    package = plugin("jxl")
    if package is None:
        raise PictureError("unsupported_format")
    with reading(Still(body)):
        is_jpeg, info, data, *_ = package.Decoder(num_threads=0)(body)
        if is_jpeg:
            return bytes(data)
        if info.width * info.height != header.width * header.height or info.mode not in _JXL_MODES:
            raise PictureError("unsupported_format")
        return Image.frombytes(info.mode, (info.width, info.height), data)


def read_still(body: bytes, kind: Format) -> Still:
    """What a decoder of this format needs of a file. Raises PictureError."""
    if kind in _READERS:
        return _READERS[kind](body)
    size = int.from_bytes(body[2:6], "little") if kind == "bmp" else 0
    return Still(body, is_cut=size > len(body))


def open_still(still: Still, kind: Format) -> Image.Image:
    """The frame, not yet decoded. Raises PictureError."""
    with reading(still):
        try:
            return opened(io.BytesIO(still.data), kind)
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


def opened(stream: BinaryIO, kind: Format) -> Image.Image:
    """A file of that format, of which no more than the header is read. Raises what its decoder does."""
    if kind != "heic":
        return Image.open(stream, formats=[kind.upper()])
    package = plugin(kind)
    if package is None:
        raise PictureError("unsupported_format")
    return package.HeifImageFile(stream)


def _opaque(image: Image.Image, top: int, end: int) -> Pixels:
    strip = rgb(image.crop((0, top, image.width, end))).tobytes("raw", "RGBX")
    return np.frombuffer(strip, np.uint8).reshape(end - top, image.width, 4)


def rgb(image: Image.Image) -> Image.Image:
    """Eight bits, three channels, nothing transparent."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        shown = (levels >> 8).astype(np.uint8)
        shown[levels == image.info.get("transparency", -1)] = _WHITE
        return Image.fromarray(shown).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")
