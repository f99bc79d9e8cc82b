"""Bytes → pixels, exactly as the published models see images; and reading those bytes.

The vision encoder's `preprocessing` decides how a picture becomes a square and how pixel values are scaled. The default
is a bicubic resize to a square that ignores the aspect ratio, values in [0, 1], CLIP's mean and deviation; no crop, no
flip. Source: `blip2_image_train` and `blip2_image_eval` of MiniGPT-4, which are identical.

Decoding up to the resize is done by `frames`, as for stored pictures: an opaque first frame of 8-bit RGB, with the same
rejections. For 8-bit opaque pictures this equals the published readers' `convert("RGB")` of Pillow; for others those
readers turn transparent pixels black and most 16-bit values white, which is not reproduced. They ignore EXIF
orientation, and boxes in annotations refer to pixels as coded, so orientation is applied only if a reference asks for
`upright`. Stored pictures are upright already.

Pixels stay uint8 until the model needs them (see `normalising`): a quarter of the memory in caches, between processes
and on the way to a GPU.

Decoding is `exact`, bit for bit, or `fast`, which takes less than half the time for JPEGs: the same decoder output, but
a resizer with 16-bit weights. All but 3 % of the values are equal; the others differ by one or two levels of 255.
Pillow 13 resizes some tall pictures columns first; the fast resizer, like torch, does not, and then differs by up to 11
levels. On photographs the PSNR is 73 dB on average and 54 dB at worst.
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
from tinygptv.data.shards.remote import ImagePrefetcher, is_remote, read_remote
from tinygptv.definitions.preprocessing import CLIP, Preprocessing
from tinygptv.definitions.recipe import Decoding
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LARGE_PIXELS = 50_000_000
"""The fast decoder's buffer is limited to this; larger JPEGs are decoded exactly."""
_MAX_PIXELS = 178_956_970
"""Pillow's limit for decompression bombs."""
_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF of 8 or 16 bits are supported; HEIC and JPEG XL with their extras"

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
    """Decode an image to (3, side, side) RGB bytes, upright if `upright`. Raises DataError, naming `where`.

    `memory`, from `decoding_memory`, saves the fast decoder a third of its time; its content is overwritten.
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
    """Decode an image at its own size to RGB, as models see it. Raises DataError, naming `where`."""
    return _first_frame(data, where)[0].convert("RGB")


def _first_frame(data: bytes, where: str) -> tuple[Image.Image, int]:
    try:
        return frames.first_frame(data, _MAX_PIXELS)
    except PictureError as error:
        known = f"; {_READ}" if error.reason in ("not_image", "unsupported_format") else ""
        raise DataError(f"{where}: {len(data)} bytes that do not decode as an image ({error.reason}{known})") from error


def decoding_memory() -> NDArray[np.uint8]:
    """A reusable buffer for decoded JPEGs; only the pages actually used take memory."""
    return np.empty(4 * _LARGE_PIXELS, np.uint8)


def _decode_jpeg(data: bytes, side: int, memory: NDArray[np.uint8] | None) -> Pixels | None:
    """Fast decoding; None for anything but an ordinary, complete JPEG."""
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
    for number, plane in enumerate(planes):  # shifting whole pixels takes half the time of selecting bytes
        np.copyto(plane, words >> 8 * number, casting="unsafe")
    return planes


def transform(side: int, decoding: Decoding = "exact", preprocessing: Preprocessing = CLIP) -> dict[str, Any]:
    """Everything that determines an image's pixel values, as JSON-like values: what `decode` and `normalise` do."""
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
    """Reads and decodes images at one size, with an LRU cache of up to `cache_bytes`."""

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
        self._prefetcher = ImagePrefetcher()

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Start prefetching the images of upcoming samples, if they are on S3."""
        images = ((image, sample.key) for sample in samples for image in sample.images)
        self._prefetcher.prefetch((image, key) for image, key in images if image not in self._kept)

    def read(self, image: ImageReference, key: str) -> Pixels:
        """An image as (3, side, side) RGB bytes. Raises DataError, naming file and key."""
        if (pixels := self._kept.get(image)) is not None:
            self._kept.move_to_end(image)
            return pixels
        data = self._prefetcher.read(image, key) if is_remote(image) else read_bytes(image, key)
        where = f"{image.path}, {key}"
        pixels = decode(data, self.side, where, self._decoding, self._memory, image.upright, self._preprocessing)
        self._kept[image] = pixels
        if len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return pixels


def read_bytes(image: ImageReference, key: str) -> bytes:
    """An image's stored bytes, local or from S3. Raises DataError, naming file and key."""
    if is_remote(image):
        return read_remote(image, key)
    try:
        with io.BufferedReader(io.FileIO(image.path)) as stream:  # like Path.open, whose argument parsing is slow
            stream.seek(image.offset)
            data = stream.read(image.length or -1)
    except FileNotFoundError as error:
        raise DataError(f"{image.path}, {key}: no such image file; was it moved since the mixture was made?") from error
    if image.length and len(data) < image.length:
        raise DataError(
            f"{image.path}, {key}: only {len(data)} of {image.length} bytes at offset {image.offset}; "
            "the shard is truncated: remove its artifact to have it rebuilt"
        )
    return data
