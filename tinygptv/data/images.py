"""Bytes → pixel_values, exactly as the published models see images; and where those bytes are read from.

RGB, a bicubic resize to a square that ignores the aspect ratio, values in [0, 1], CLIP's mean and deviation. No crop,
no flip, no rotation by EXIF: source `blip2_image_train` and `blip2_image_eval` of MiniGPT-4, where both are the same.
"""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tinygptv.errors import DataError
from tinygptv.sample import ImageReference

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)

_VALUES = ((np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - MEAN) / DEVIATION).T.copy()
"""What each of the 256 byte values becomes, per channel: (3, 256). A look-up is exact, and a third of the work."""

Pixels = NDArray[np.uint8]


def decode(data: bytes, side: int, where: str) -> Pixels:
    """An encoded image as (side, side, 3) RGB bytes. Raises DataError, naming `where`, if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {len(data)} bytes that do not decode as an image ({error})") from error
    return np.asarray(square)


def normalise(pixels: Pixels) -> NDArray[np.float32]:
    """(N, side, side, 3) bytes -> (N, 3, side, side) values, CLIP-normalised."""
    count, height, width, channels = pixels.shape
    values = np.empty((count, channels, height, width), dtype=np.float32)
    for channel, of_byte in enumerate(_VALUES):
        values[:, channel] = of_byte[pixels[..., channel]]
    return values


def transform(side: int) -> dict[str, Any]:
    """Everything that decides which values an image's bytes become, as JSON-like values; what `decode` and `normalise`
    do."""
    return {
        "image_size": side,
        "decoder": f"Pillow {PIL.__version__}",
        "resize": "bicubic",
        "mean": MEAN.tolist(),
        "deviation": DEVIATION.tolist(),
    }


class ImageReader:
    """Reads and decodes images at one size; keeps the most recently used, up to `cache_bytes`.

    Decoded bytes, not values, are kept: four times as many fit, and the result is the same to the bit.
    """

    def __init__(self, side: int, cache_bytes: int = 256 * 2**20) -> None:
        self.side = side
        self._room = cache_bytes // (side * side * 3)
        self._kept: OrderedDict[ImageReference, Pixels] = OrderedDict()

    def read(self, image: ImageReference, key: str) -> Pixels:
        """(side, side, 3) RGB bytes. Raises DataError naming file and key."""
        if (pixels := self._kept.get(image)) is not None:
            self._kept.move_to_end(image)
            return pixels
        pixels = decode(read_bytes(image, key), self.side, f"{image.path}, {key}")
        self._kept[image] = pixels
        if len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return pixels


def read_bytes(image: ImageReference, key: str) -> bytes:
    """An image as it is stored. Raises DataError naming file and key."""
    try:
        with Path(image.path).open("rb") as stream:
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
