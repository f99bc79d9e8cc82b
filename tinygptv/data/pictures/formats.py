"""Which format bytes are of, and what is read of one before its pixels are."""

from dataclasses import dataclass
from typing import Literal

from tinygptv.data.pictures import jpeg

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "jxl"]

Reason = Literal[
    "empty",
    "not_image",
    "unsupported_format",
    "too_many_pixels",
    "too_small",
    "bad_aspect",
    "animated",
    "truncated_image",
    "damaged_image",
]

_MAGIC: dict[bytes, Format] = {
    jpeg.START: "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\xff\x0a": "jxl",
    b"\0\0\0\x0cJXL \r\n\x87\n": "jxl",
}
_UNSUPPORTED = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\1\0", b"8BPS")
"""JPEG 2000, its bare codestream, icons, Photoshop."""
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


class PictureError(Exception):
    """These bytes are not stored, and why: one word, counted in `drops`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Still:
    """The first frame of a picture as a file of its own, which holds nothing but what its pixels need.

    The frame lies with its top left corner at `left`, `top` of a transparent canvas of `width` x `height` px; None: it
    is the whole picture, and its decoder reads its size before its pixels. `is_cut` says that the file ends before its
    format does: if its pixels cannot be decoded, they were cut off.
    """

    data: bytes
    width: int | None = None
    height: int | None = None
    left: int = 0
    top: int = 0
    orientation: int = 1
    is_animated: bool = False
    is_cut: bool = False


def sniff(body: bytes) -> Format:
    """The format that these bytes begin as. Raises PictureError: empty, not_image, unsupported_format."""
    if not body:
        raise PictureError("empty")
    for magic, kind in _MAGIC.items():
        if body.startswith(magic):
            return kind
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "webp"
    if body[:2] == b"BM" and int.from_bytes(body[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if body[4:8] == b"ftyp":
        end = int.from_bytes(body[:4], "big")
        brands = [body[start : start + 4] for start in (8, *range(16, min(end, len(body)), 4))]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "avif"
        if any(brand in _HEIC_BRANDS for brand in brands):
            return "heic"
        raise PictureError("unsupported_format")
    raise PictureError("unsupported_format" if body.startswith(_UNSUPPORTED) else "not_image")
