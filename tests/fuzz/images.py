"""Fetched bytes as a fuzz target: pictures of every format, broken in ways that their decoders must stand.

`cases(random)` makes one input of a seed, `check(data)` states what must hold for any. Half of the changes are made to
whole chunks, segments or boxes, with checksums made right again, so that they get past a format's first look.
"""

import functools
import importlib.util
import io
import random as randomness
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import get_args

from PIL import Image

from tinygptv.data.pictures.formats import PictureError, Reason
from tinygptv.data.pictures.frames import first_frame
from tinygptv.data.pictures.pixels import decode
from tinygptv.data.pictures.storing import store_picture
from tinygptv.definitions.recipe import Decoding
from tinygptv.definitions.source import Download
from tinygptv.errors import DataError

LIMITS = Download(image_size=64, min_side=1, max_aspect=1000.0, max_pixels=1_000_000)

_METADATA = ("exif", "icc_profile", "xmp", "comment", "photoshop", "mp")

Pieces = list[bytes]
Random = randomness.Random


def check(data: bytes) -> None:
    """What must hold for any bytes: a reason from the list, or a JPEG that is what is said of it; and models are shown
    what is stored, or refused what is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = _seen(data)
        try:
            made = store_picture(data, LIMITS)
        except PictureError as error:
            assert error.reason in get_args(Reason)
            assert seen is None or error.reason in ("bad_aspect", "too_small")
            return
    assert seen is not None
    assert sorted(seen) == sorted((made.original_width, made.original_height))
    assert 1 <= min(made.width, made.height) <= LIMITS.image_size
    assert made.original_width * made.original_height <= LIMITS.max_pixels
    assert made.reencoded or len(made.jpeg) <= len(data) + 2 or made.original_format == "jxl"
    assert len(made.jpeg) <= 4096 + max(len(data), 6 * made.width * made.height)
    assert -(1 << 63) <= made.phash < 1 << 63
    with Image.open(io.BytesIO(made.jpeg), formats=["JPEG"]) as image:
        image.load()
        assert (image.mode, image.size) == ("RGB", (made.width, made.height))
        assert not any(name in image.info for name in _METADATA)
    assert store_picture(made.jpeg, LIMITS).jpeg == made.jpeg


def _seen(data: bytes) -> tuple[int, int] | None:
    """Size of the frame that models are shown; None if they are shown none, by either way of decoding."""
    ways: tuple[Decoding, ...] = ("exact", "fast")
    for way in ways:
        try:
            assert decode(data, 8, "here", way).shape == (3, 8, 8)
        except DataError as error:
            assert "bytes that do not decode as an image" in str(error)
    try:
        return first_frame(data, LIMITS.max_pixels)[0].size
    except PictureError:
        return None


def cases(random: Random) -> bytes:
    """A real file with one to four changes; now and then one as it is, or noise behind a format's first bytes."""
    body = random.choice(_bases())
    kind = random.random()
    if kind < 0.02:
        return body
    if kind < 0.05:
        return body[: random.randint(2, 40)] + random.randbytes(random.randint(0, 500))
    for _ in range(random.randint(1, 4)):
        body = _change_pieces(random, body) if random.random() < 0.5 else _change_bytes(random, body)
    return body


@functools.cache
def _bases() -> tuple[bytes, ...]:
    """Small files of every format that can be written here, with metadata, transparency, several frames and depths."""
    shade = Image.linear_gradient("L").resize((60, 44))
    plain = Image.merge("RGB", (shade, shade.rotate(180), shade.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    clear = plain.copy()
    clear.putalpha(shade)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    noted = {"exif": exif, "icc_profile": bytes(200)}
    following = [plain.resize((30, 20)).resize((60, 44)), plain.rotate(180)]
    several = {"save_all": True, "append_images": following}

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        stream = io.BytesIO()
        if "append_images" in options:  # Pillow leaves one format's settings on images that it saves
            options["append_images"] = [one.copy() for one in following]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.copy().save(stream, kind, **options)
        return stream.getvalue()

    files = [
        *(encoded(plain, "JPEG", **options) for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2})),
        *(encoded(plain, "JPEG", subsampling=0, keep_rgb=True, **noted), encoded(plain.convert("L"), "JPEG")),
        *(encoded(plain.convert("CMYK"), "JPEG"), encoded(plain, "MPO", **several)),
        *(encoded(image, "PNG") for image in (plain, clear, plain.quantize(16), plain.convert("1"), shade)),
        *(encoded(shade.convert("I;16"), "PNG"), encoded(plain, "PNG", **noted), encoded(plain, "PNG", **several)),
        *(encoded(clear, "PNG", default_image=True, **several), encoded(plain.quantize(4), "PNG", transparency=1)),
        *(encoded(clear, "WEBP", **noted), encoded(clear, "WEBP", lossless=True), encoded(plain, "WEBP")),
        *(encoded(clear, "WEBP", **several), encoded(plain, "GIF", comment="by somebody"), encoded(clear, "GIF")),
        *(encoded(plain.quantize(8), "GIF", **several), encoded(plain, "BMP"), encoded(plain.quantize(16), "BMP")),
        *(encoded(clear, "BMP"), encoded(plain, "AVIF", **noted), encoded(plain, "AVIF", **several)),
        *(encoded(plain, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
        *(encoded(plain, "TIFF", big_tiff=True, **noted), encoded(plain, "TIFF", **several)),
        *(encoded(shade.convert("1"), "TIFF", compression="group4"), encoded(plain.convert("CMYK"), "TIFF")),
    ]
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        files += [encoded(plain, "HEIF", exif=exif.tobytes()), encoded(clear, "HEIF")]
    if importlib.util.find_spec("pillow_jxl"):
        importlib.import_module("pillow_jxl")
        files += [encoded(plain, "JXL", use_container=True, exif=exif.tobytes()), encoded(clear, "JXL", lossless=True)]
    return tuple(files)


def _change_bytes(random: Random, body: bytes) -> bytes:
    start = random.randrange(max(1, min(len(body), random.choice([64, 400, len(body)]))))
    length = random.choice([1, 1, 2, 4, random.randint(0, 200)])
    cut, rest = body[start : start + length], body[start + length :]
    other = random.choice(_bases())
    changes: list[Callable[[], bytes]] = [
        lambda: cut[:1].translate(bytes(value ^ 1 << bit for value in range(256))) + cut[1:] + rest,
        lambda: random.randbytes(length) + rest,
        lambda: random.choice([bytes(length), b"\xff" * length]) + rest,
        lambda: rest,
        lambda: random.randbytes(length) + cut + rest,
        lambda: b"",
        lambda: other[random.randrange(len(other)) :],
    ]
    bit = random.randrange(8)
    return body[:start] + random.choice(changes)()


def _change_pieces(random: Random, body: bytes) -> bytes:
    """Drop, repeat, swap, lengthen, cut or exchange pieces of a file, and sum them up anew."""
    start = next((start for start in _LAYOUTS if start in body[:12]), None)
    if start is None:
        return _change_bytes(random, body)
    split, join = _LAYOUTS[start]
    pieces = split(body)
    if len(pieces) < 2:
        return body
    one, other = random.randrange(len(pieces)), random.randrange(len(pieces))
    match random.randrange(7):
        case 0:
            del pieces[one]
        case 1:
            pieces.insert(other, pieces[one])
        case 2:
            pieces[one], pieces[other] = pieces[other], pieces[one]
        case 3:
            pieces[one] += random.randbytes(random.choice([1, 100, 70_000]))
        case 4:
            pieces[one] = pieces[one][: random.randint(4, max(4, len(pieces[one])))]
        case 5:
            pieces[one] = pieces[one][:4] + _change_bytes(random, pieces[one][4:])
        case _:
            pieces[one] = random.choice(split(random.choice([base for base in _bases() if start in base[:12]])))
    return join(pieces)


def _split_png(body: bytes) -> Pieces:
    pieces, position = [], 8
    while position + 12 <= len(body):
        end = position + 8 + int.from_bytes(body[position : position + 4], "big")
        pieces.append(body[position + 4 : end])
        position = end + 4
    return pieces


def _join_png(pieces: Pieces) -> bytes:
    whole = (struct.pack(">I", max(0, len(one) - 4)) + one + struct.pack(">I", zlib.crc32(one)) for one in pieces)
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def _split_riff(body: bytes) -> Pieces:
    pieces, position = [], 12
    while position + 8 <= len(body):
        end = position + 8 + int.from_bytes(body[position + 4 : position + 8], "little")
        pieces.append(body[position : position + 4] + body[position + 8 : end])
        position = end + (end & 1)
    return pieces


def _join_riff(pieces: Pieces) -> bytes:
    whole = b"".join(
        one[:4] + struct.pack("<I", max(0, len(one) - 4)) + one[4:] + bytes(len(one) & 1) for one in pieces
    )
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


def _split_jpeg(body: bytes) -> Pieces:
    """Segments, and coded pixels with the marker in front of them."""
    return [b"\xff" + one for one in body[2:].split(b"\xff") if one]


def _join_jpeg(pieces: Pieces) -> bytes:
    return b"\xff\xd8" + b"".join(pieces)


def _split_boxes(body: bytes) -> Pieces:
    pieces, position = [], 0
    while position + 8 <= len(body):
        end = max(position + int.from_bytes(body[position : position + 4], "big"), position + 8)
        pieces.append(body[position + 4 : end])
        position = end
    return pieces


def _join_boxes(pieces: Pieces) -> bytes:
    return b"".join(struct.pack(">I", len(one) + 4) + one for one in pieces)


_LAYOUTS: dict[bytes, tuple[Callable[[bytes], Pieces], Callable[[Pieces], bytes]]] = {
    b"\x89PNG": (_split_png, _join_png),
    b"RIFF": (_split_riff, _join_riff),
    b"\xff\xd8\xff": (_split_jpeg, _join_jpeg),
    b"ftyp": (_split_boxes, _join_boxes),
    b"JXL ": (_split_boxes, _join_boxes),
}
