"""One way from bytes to pixels: sizes by the header, frames of every format, and what EXIF does and does not decide."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinygptv.data.pictures.formats import PictureError
from tinygptv.data.pictures.frames import first_frame, read_size
from tinygptv.data.pictures.pixels import decode
from tinygptv.errors import DataError

ENOUGH = 10_000


def scene() -> Image.Image:
    """Green and wide, red at its top left."""
    image = Image.new("RGB", (60, 44), (30, 160, 60))
    image.paste((220, 20, 20), (0, 0, 30, 22))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def every_format() -> dict[str, bytes]:
    pytest.importorskip("pillow_jxl")
    pillow_heif = pytest.importorskip("pillow_heif")
    heic = io.BytesIO()
    pillow_heif.from_pillow(scene()).save(heic, quality=95)
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {},
        "PNG": {},
        "WEBP": {"lossless": True},
        "GIF": {},
        "BMP": {},
        "TIFF": {},
        "AVIF": {"quality": 95},
    }
    found = {kind: encoded(scene(), kind, **options) for kind, options in kinds.items()}
    packed = encoded(Image.open(io.BytesIO(found["JPEG"])), "JXL", lossless_jpeg=True)
    return found | {"HEIC": heic.getvalue(), "JXL": encoded(scene(), "JXL", lossless=True), "JPEG in JXL": packed}


def test_every_format_gives_the_same_frame_and_size(tmp_path: Path) -> None:
    for kind, body in every_format().items():
        frame, orientation = first_frame(body, ENOUGH)
        assert (frame.size, orientation) == ((60, 44), 1), kind
        assert np.abs(np.asarray(frame)[..., :3].astype(int) - np.asarray(scene())).mean() < 6, kind
        (tmp_path / "picture").write_bytes(body)
        assert read_size(tmp_path / "picture") == (60, 44), kind


def test_a_canvas_of_too_many_pixels_is_refused_in_every_format() -> None:
    for body in every_format().values():
        with pytest.raises(PictureError, match="too_many_pixels"):
            first_frame(body, 60 * 44 - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_exif_says_is_told_and_not_applied(kind: str) -> None:
    frame, orientation = first_frame(encoded(scene(), kind, exif=turned()), ENOUGH)
    assert (frame.size, orientation) == ((60, 44), 6)


def test_what_an_avif_says_of_its_pixels_is_applied() -> None:
    frame, orientation = first_frame(encoded(scene(), "AVIF", exif=turned()), ENOUGH)
    assert (frame.size, orientation) == ((44, 60), 1)
    assert np.asarray(frame)[5, 38, 0] > 150  # red is at the top right of it


@pytest.mark.parametrize("body", [b"", b"<html>gone</html>", b"8BPS\0\1" + bytes(40), b"\x89PNG\r\n\x1a\n", b"BM"])
def test_a_size_that_no_header_says_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "picture").write_bytes(body)
    with pytest.raises(PictureError):
        read_size(tmp_path / "picture")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_whatever_is_done_to_a_file_it_is_decoded_or_refused() -> None:
    chance = random.Random(0)
    bodies = [*every_format().values(), encoded(scene().convert("CMYK"), "JPEG"), encoded(scene().convert("P"), "PNG")]
    for number in range(800):
        body = bytearray(bodies[number % len(bodies)])
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(min(len(body), chance.choice([64, 400, len(body)])))
            body[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        try:
            seen = decode(bytes(body), 8, "here", chance.choice(["exact", "fast"]), upright=bool(number % 2))
        except DataError:
            continue
        assert seen.shape == (3, 8, 8)
