"""Bytes → pixels, exactly as the published models see images; and where those bytes are read from.

How a picture becomes a square and which values its pixels have, the vision encoder's `preprocessing` says. By default
a bicubic resize to a square that ignores the aspect ratio, values in [0, 1], CLIP's mean and deviation. No flip:
source `blip2_image_train` and `blip2_image_eval` of MiniGPT-4, where both are the same.

What comes before the resize is `frames`', as for pictures that are stored: an opaque first frame of 8-bit RGB, and
what is refused there is refused here. Of an 8-bit opaque picture that is what the published readers see, Pillow's
`convert("RGB")`; of others they see black for transparent and white for most of 16 bits, which nobody wants. They do
not turn pictures as EXIF asks, and boxes in annotations count on pixels as they are coded: so neither is done here,
unless a reference asks for `upright`. Stored pictures are upright already.

Pixels stay bytes until the model takes them (see `normalising`): a quarter of the values' memory in caches, between
processes and on the way to a GPU.

Decoding is `exact`, to the bit, or `fast`, in less than half of its time, for JPEGs: the same pixels, but a resizer
with 16-bit weights, which gives all but three in 100 values the same, the others one or two steps of 255 away. Pillow
13 scales the columns of some tall pictures before their rows; the fast way, as torch, does not, and there differs by up
to 11 steps. On photographs that is 73 dB on average and 54 at worst.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, assert_never

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tinygptv.data.pictures import frames, jpeg
from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.storing import resize
from tinygptv.data.shards.remote import ImagesAhead, is_remote, read_remote
from tinygptv.definitions.preprocessing import CLIP, Preprocessing
from tinygptv.definitions.recipe import Decoding
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LARGE_PIXELS = 50_000_000
"""The fast way has no room for JPEGs above it: they are read exactly."""
_MAX_PIXELS = 178_956_970
"""What Pillow, too, takes for a decompression bomb."""
_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF of 8 or 16 bits are read; HEIC and JPEG XL with extras of these names"

Pixels = NDArray[np.uint8]


def decode(
    data: bytes,
    side: int,
    where: str,
    decoding: Decoding = "exact",
    memory: NDArray[np.uint8] | None = None,
    upright: bool = False,
    preprocessing: Preprocessing = CLIP,
) -> Pixels:
    """An encoded image as (3, side, side) RGB bytes, turned as EXIF asks if `upright`. Raises DataError, naming
    `where`, if it cannot be decoded.

    `memory`, as `decoding_memory` gives it, spares the fast way a third of its time; what lies there is lost.
    """
    is_plain = preprocessing.fit == "stretch" and preprocessing.interpolation == "bicubic"
    if decoding == "fast" and is_plain and not upright and (pixels := _decode_jpeg(data, side, memory)) is not None:
        return pixels
    frame, orientation = _first_frame(data, where)
    square = np.asarray(_square(frame, side, preprocessing))[..., :3]
    return np.ascontiguousarray(frames.upright(square, orientation if upright else 1).transpose(2, 0, 1))


def _square(frame: Image.Image, side: int, preprocessing: Preprocessing) -> Image.Image:
    """A picture at `side` x `side` px."""
    width, height = frame.size
    by = _FILTERS[preprocessing.interpolation]
    match preprocessing.fit:
        case "stretch":
            return frame.resize((side, side), by)
        case "crop":
            scale = side / min(width, height)
            wide, high = max(side, int(width * scale)), max(side, int(height * scale))
            left, top = (wide - side) // 2, (high - side) // 2
            return frame.resize((wide, high), by).crop((left, top, left + side, top + side))
        case "pad":
            longest = max(width, height)
            colour = tuple(int(255 * value) for value in preprocessing.mean)
            canvas = Image.new("RGB", (longest, longest), colour)
            canvas.paste(frame.convert("RGB"), ((longest - width) // 2, (longest - height) // 2))
            return canvas.resize((side, side), by)
        case _:
            assert_never(preprocessing.fit)


def open_picture(data: bytes, where: str) -> Image.Image:
    """An encoded image at its own size, as models see it, of mode RGB. Raises DataError, naming `where`."""
    return _first_frame(data, where)[0].convert("RGB")


def _first_frame(data: bytes, where: str) -> tuple[Image.Image, int]:
    try:
        return frames.first_frame(data, _MAX_PIXELS)
    except PictureError as error:
        known = f"; {_READ}" if error.reason in ("not_image", "unsupported_format") else ""
        raise DataError(f"{where}: {len(data)} bytes that do not decode as an image ({error.reason}{known})") from error


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


def transform(side: int, decoding: Decoding = "exact", preprocessing: Preprocessing = CLIP) -> dict[str, Any]:
    """Everything that decides which values an image's bytes become, as JSON-like values; what `decode` and
    `normalise` do."""
    fit = {} if preprocessing.fit == "stretch" else {"fit": preprocessing.fit}
    return {
        "image_size": side,
        "frame": "opaque on white, 8 bits",
        "decoder": f"Pillow {PIL.__version__}" if decoding == "exact" else "libjpeg-turbo, 16-bit weights",
        **statistics(preprocessing),
        **fit,
    }


def statistics(preprocessing: Preprocessing) -> dict[str, Any]:
    """Interpolation, mean and deviation as JSON-like values, rounded to 32 bits as they are used."""
    mean, deviation = (np.array(each, np.float32).tolist() for each in (preprocessing.mean, preprocessing.deviation))
    return {"resize": preprocessing.interpolation, "mean": mean, "deviation": deviation}


class ImageReader:
    """Reads and decodes images at one size, one at a time; keeps the most recently used, up to `cache_bytes`."""

    def __init__(
        self,
        side: int,
        decoding: Decoding = "exact",
        cache_bytes: int = 32 * 2**20,
        preprocessing: Preprocessing = CLIP,
    ) -> None:
        self.side, self._decoding, self._preprocessing = side, decoding, preprocessing
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
        where = f"{image.path}, {key}"
        pixels = decode(data, self.side, where, self._decoding, self._memory, image.upright, self._preprocessing)
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
