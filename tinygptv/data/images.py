"""Bytes → pixels, exactly as the published models see images; and where those bytes are read from.

RGB, a bicubic resize to a square that ignores the aspect ratio, values in [0, 1], CLIP's mean and deviation. No crop,
no flip, no rotation by EXIF: source `blip2_image_train` and `blip2_image_eval` of MiniGPT-4, where both are the same.

Pixels stay bytes until the model takes them (see `normalising`): a quarter of the values' memory in caches, between
processes and on the way to a GPU.

Decoding is `exact`, to the bit, by Pillow, or `fast`, in less than half of its time, for JPEGs: libjpeg-turbo gives the
same pixels, and a resizer with 16-bit weights gives all but three in 100 values the same, the others one or two steps
of 255 away. Pillow 13 scales the columns of some tall pictures before their rows; the fast way, as torch, does not, and
there differs by up to 11 steps. On photographs that is 73 dB on average and 54 at worst.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tinygptv.data import jpeg
from tinygptv.data.pictures import resize
from tinygptv.data.remote import ImagesAhead, is_remote, read_remote
from tinygptv.definitions.recipe import Decoding
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)

_LARGE_PIXELS = 50_000_000
"""JPEGs above it are left to Pillow, which refuses decompression bombs."""

Pixels = NDArray[np.uint8]


def decode(
    data: bytes, side: int, where: str, decoding: Decoding = "exact", memory: NDArray[np.uint8] | None = None
) -> Pixels:
    """An encoded image as (3, side, side) RGB bytes. Raises DataError, naming `where`, if it cannot be decoded.

    `memory`, as `decoding_memory` gives it, spares the fast way a third of its time; what lies there is lost.
    """
    if decoding == "fast" and (pixels := _decode_jpeg(data, side, memory)) is not None:
        return pixels
    try:
        with Image.open(io.BytesIO(data)) as image:
            square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise DataError(f"{where}: {len(data)} bytes that do not decode as an image (of no known format)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {len(data)} bytes that do not decode as an image ({error})") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def decoding_memory() -> NDArray[np.uint8]:
    """Room for one decoded JPEG after the other. It takes as much memory as the largest of them did."""
    return np.empty(4 * _LARGE_PIXELS, np.uint8)


def _decode_jpeg(data: bytes, side: int, memory: NDArray[np.uint8] | None) -> Pixels | None:
    """None for what is no ordinary, whole JPEG."""
    if not data.startswith(jpeg.START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("CMYK", "YCCK") or height * width > _LARGE_PIXELS:
            return None
        words = resize(simplejpeg.decode_jpeg(data, "RGBX", buffer=memory), side, side).view("<u4")[..., 0]
    except ValueError:
        return None
    planes = np.empty((3, side, side), np.uint8)
    for number, plane in enumerate(planes):  # by shifts of whole pixels: half the time of picking bytes
        np.copyto(plane, words >> 8 * number, casting="unsafe")
    return planes


def transform(side: int, decoding: Decoding = "exact") -> dict[str, Any]:
    """Everything that decides which values an image's bytes become, as JSON-like values; what `decode` and
    `normalise` do."""
    return {
        "image_size": side,
        "decoder": f"Pillow {PIL.__version__}" if decoding == "exact" else "libjpeg-turbo, 16-bit weights",
        "resize": "bicubic",
        "mean": MEAN.tolist(),
        "deviation": DEVIATION.tolist(),
    }


class ImageReader:
    """Reads and decodes images at one size, one at a time; keeps the most recently used, up to `cache_bytes`."""

    def __init__(self, side: int, decoding: Decoding = "exact", cache_bytes: int = 32 * 2**20) -> None:
        self.side, self._decoding = side, decoding
        self._memory = decoding_memory()
        self._room = cache_bytes // (3 * side * side)
        self._kept: OrderedDict[ImageReference, Pixels] = OrderedDict()
        self._ahead = ImagesAhead()

    def expect(self, samples: Iterable[Sample]) -> None:
        """Begin to fetch the images of samples that will be read next, if they lie on S3."""
        images = ((image, sample.key) for sample in samples for image in sample.images)
        self._ahead.expect((image, key) for image, key in images if image not in self._kept)

    def read(self, image: ImageReference, key: str) -> Pixels:
        """(3, side, side) RGB bytes. Raises DataError naming file and key."""
        if (pixels := self._kept.get(image)) is not None:
            self._kept.move_to_end(image)
            return pixels
        data = self._ahead.read(image, key) if is_remote(image) else read_bytes(image, key)
        pixels = decode(data, self.side, f"{image.path}, {key}", self._decoding, self._memory)
        self._kept[image] = pixels
        if len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return pixels


def read_bytes(image: ImageReference, key: str) -> bytes:
    """An image as it is stored, here or on S3. Raises DataError naming file and key."""
    if is_remote(image):
        return read_remote(image, key)
    try:
        with io.BufferedReader(io.FileIO(image.path)) as stream:  # as Path.open, whose parsing takes longer than this
            stream.seek(image.offset)
            data = stream.read(image.length or -1)
    except FileNotFoundError as error:
        raise DataError(f"{image.path}, {key}: no such image file; was it moved since the mixture was made?") from error
    if image.length and len(data) < image.length:
        raise DataError(
            f"{image.path}, {key}: only {len(data)} of {image.length} bytes at offset {image.offset}; "
            "the shard is truncated: remove its artifact to have it made again"
        )
    return data
