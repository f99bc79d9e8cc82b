"""What is stored is upright, 8-bit, RGB and without metadata; what cannot be is refused for one reason, cheaply."""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from tinygptv.data.pictures import storing
from tinygptv.data.pictures.phash import distance
from tinygptv.data.pictures.storing import PictureError, StoredPicture, resize, store_picture
from tinygptv.definitions.source import Download

WANTED = Download(image_size=64, min_side=16, max_aspect=10, max_pixels=4_000_000)


def stored(body: bytes, **options: Any) -> StoredPicture:
    return store_picture(body, WANTED.model_copy(update=options))


def pixels(picture: StoredPicture) -> np.ndarray:
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (picture.width, picture.height))
        assert not image.getexif() and "icc_profile" not in image.info and "comment" not in image.info
        return np.asarray(image).astype(int)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(width: int = 60, height: int = 50) -> Image.Image:
    """Dark at the left, bright at the right, a red corner at the top left."""
    image = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))).convert("RGB")
    image.paste((220, 20, 20), (0, 0, width // 4, height // 4))
    return image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in some kilobytes."""
    press = zlib.compressobj(9)
    rows = press.compress(bytes((side * 3 + 1) * 100)) + press.flush(zlib.Z_FULL_FLUSH)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = rows[:2] + rows[2:] * (side // 100) + press.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def gps() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def refused(body: bytes, **options: Any) -> str:
    with pytest.raises(PictureError) as raised:
        stored(body, **options)
    return raised.value.reason


# What needs nothing keeps its coded pixels


def test_a_small_upright_jpeg_is_stored_as_it_came(picture: Callable[..., bytes]) -> None:
    body = picture(60, 50)
    kept = stored(body)
    assert (kept.jpeg, kept.reencoded, kept.original_format) == (body, False, "jpeg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_metadata_goes_without_a_new_encoding(picture: Callable[..., bytes], options: dict[str, Any]) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = picture(60, 50, **options)
    body = picture(60, 50, exif=gps(), icc_profile=profile, comment=b"by somebody", xmp=b"<x:xmpmeta/>", **options)
    kept = stored(body + b"and a hidden film after the picture")
    assert not kept.reencoded
    assert kept.jpeg == plain
    assert len(body) > len(plain)


def test_a_picture_that_lost_its_metadata_is_stored_as_it_is(picture: Callable[..., bytes]) -> None:
    once = stored(picture(60, 50, exif=gps()))
    assert stored(once.jpeg) == once


# What needs something is encoded once


def test_the_shorter_side_comes_down_and_the_aspect_stays(picture: Callable[..., bytes]) -> None:
    made = stored(picture(300, 200))
    assert (made.width, made.height) == (96, 64)
    assert (made.original_width, made.original_height, made.reencoded) == (300, 200, True)


def test_nothing_is_made_larger(picture: Callable[..., bytes]) -> None:
    assert (stored(picture(40, 30)).width, stored(picture(40, 30, kind="PNG")).height) == (40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encoded(ramp(), kind, exif=exif, **({"quality": 95} if kind != "TIFF" else {}))
    with Image.open(io.BytesIO(body)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    made = stored(body)
    assert (made.original_height, made.original_width) == upright.shape[:2]
    assert np.abs(pixels(made) - upright).mean() < 3


def test_a_broken_orientation_turns_nothing(picture: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = picture(60, 50, exif=exif)
    entry = body.index(bytes.fromhex("1201")) if b"II*" in body else body.index(bytes.fromhex("0112"))
    wrong = bytearray(body)
    wrong[entry + 8 : entry + 12] = b"\xff\xff\xff\xff"
    assert not stored(bytes(wrong)).reencoded


@pytest.mark.parametrize("colour", [0, 2])
def test_sixteen_bits_are_scaled_to_eight(colour: int) -> None:
    channels = 3 if colour else 1
    row = b"\0" + b"".join(struct.pack(">H", level * 1600) * channels for level in range(40))
    made = pixels(stored(png(40, 40, 16, colour, row * 40)))
    assert made[:, 0].mean() < 8 and made[:, -1].mean() > 235
    assert abs(made[:, 20].mean() - 125) < 8


def test_cmyk_keeps_its_colours() -> None:
    image = Image.new("RGB", (40, 40), (200, 40, 30)).convert("CMYK")
    made = stored(encoded(image, "JPEG", quality=95))
    assert made.reencoded
    assert np.abs(pixels(made).mean((0, 1)) - [200, 40, 30]).max() < 6


def test_grey_becomes_rgb() -> None:
    made = stored(encoded(ramp().convert("L"), "JPEG", quality=95))
    assert made.reencoded
    assert np.abs(pixels(made) - np.asarray(ramp().convert("L"))[..., None]).mean() < 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1-with-hole"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    body = (
        encoded(image.convert("L"), "PNG", transparency=0)
        if mode == "1-with-hole"
        else encoded(
            image.convert(mode),
            "PNG",
            **({"transparency": image.convert("P").getpixel((39, 0))} if mode == "P" else {}),
        )
    )
    assert pixels(stored(body))[:, 25:].min() > 240


def test_of_an_animation_the_first_frame_is_kept_unless_refused() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert pixels(stored(body)).mean((0, 1))[0] > 200
        assert refused(body, animated="refuse") == "animated"
        assert stored(encoded(frames[0], kind), animated="refuse").reencoded


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_become_jpeg(kind: str) -> None:
    made = stored(encoded(ramp(), kind))
    assert (made.original_format, made.reencoded) == (kind.lower(), True)
    assert np.abs(pixels(made) - np.asarray(ramp())).mean() < 12


def test_threads_do_not_disturb_each_other(picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_LARGE_PIXELS", 40_000)
    bodies = [picture(150 + 20 * number, 200, number, kind) for number in range(12) for kind in ("JPEG", "PNG", "WEBP")]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(stored, bodies)) == [stored(body) for body in bodies]


def test_resizing_is_what_pillow_does(shared: Path) -> None:
    """Mean and minimum over real photographs, as stated in `resize`."""
    decibels = []
    for path in sorted((shared / "data/images/coco/val2017").glob("*.jpg"))[:30]:
        with Image.open(path) as image:
            photograph = image.convert("RGB")
        reference = np.asarray(photograph.resize((224, 224), Image.Resampling.BICUBIC)).astype(float)
        ours = resize(simplejpeg.decode_jpeg(path.read_bytes(), "RGBX"), 224, 224)[..., :3]
        decibels.append(10 * np.log10(255**2 / max(np.mean((ours - reference) ** 2), 1e-10)))
    assert np.mean(decibels) > 70
    assert min(decibels) > 54


# What is refused


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>Not found</title>", "not_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'/>", "not_image"),
        (bytes(3_000_000), "not_image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not_image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf" + bytes(40), "unsupported_format"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(40), "unsupported_format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "unsupported_format"),
        (b"8BPS\0\1" + bytes(40), "unsupported_format"),
    ],
)
def test_what_is_no_picture_is_refused(body: bytes, reason: str) -> None:
    assert refused(body) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_picture_is_a_class_of_its_own(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    body = encoded(noise, kind)
    assert refused(body[: int(len(body) * kept)]) == "truncated_image"


def test_a_damaged_jpeg_is_not_taken_for_a_picture(picture: Callable[..., bytes]) -> None:
    body = bytearray(picture(200, 200))
    middle = len(body) // 2
    body[middle : middle + 40] = b"\x55" * 40
    assert refused(bytes(body)) in ("damaged_image", "truncated_image")


@pytest.mark.parametrize(
    ("size", "reason"),
    [((1, 1), "too_small"), ((20, 2000), "bad_aspect"), ((5000, 3), "too_small"), ((2100, 2000), "too_many_pixels")],
)
def test_spacers_strips_and_giants_are_refused(
    picture: Callable[..., bytes], size: tuple[int, int], reason: str
) -> None:
    for kind in ("JPEG", "GIF", "PNG"):
        assert refused(picture(*size, kind=kind)) == reason


@pytest.mark.parametrize("side", [2_500, 16_000])
def test_a_bomb_is_refused_without_being_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decoded)
    body = bomb(side)
    assert len(body) < 1_000_000
    assert refused(body) == "too_many_pixels"
    small = encoded(ramp(), "JPEG")
    frame = small.index(b"\xff\xc0") + 5
    assert refused(small[:frame] + struct.pack(">HH", side, side) + small[frame + 4 :]) == "too_many_pixels"


def test_numbers_without_a_known_white_are_refused() -> None:
    heights = Image.fromarray(np.linspace(-3, 9000, 1600, dtype=np.float32).reshape(40, 40))
    assert refused(encoded(heights, "TIFF")) == "unsupported_format"


def test_whatever_a_reader_stumbles_over_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by changing bytes at random: Pillow divides by the time scale that an AVIF file says, which may be zero."""

    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    body = encoded(ramp(), "AVIF")
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", stumble)
    assert refused(body) == "damaged_image"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_whatever_is_done_to_a_file_it_is_stored_or_refused(picture: Callable[..., bytes]) -> None:
    """Two thousand files with bytes changed, cut out and put in: never another exception."""
    chance = random.Random(0)
    text = PngImagePlugin.PngInfo()
    text.add_text("author", "somebody", zip=True)
    bodies = [picture(40, 40, exif=gps()), picture(40, 40, progressive=True), picture(40, 40, kind="PNG", pnginfo=text)]
    bodies += [encoded(ramp(40, 40), kind) for kind in ("WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    bodies += [encoded(ramp(40, 40), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg")]
    for number in range(2000):
        body = bytearray(bodies[number % len(bodies)])
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(min(len(body), chance.choice([64, 400, len(body)])))
            body[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        try:
            made = stored(bytes(body))
        except PictureError:
            continue
        assert min(made.width, made.height) >= 1


# The fingerprint


def test_the_hash_survives_scaling_and_coding(shared: Path) -> None:
    """The hash of each photograph is near the one that `imagehash.phash` gave its original."""
    manifest = json.loads((shared / "data/MANIFEST.json").read_text())["files"]
    photographs = [entry for entry in manifest if entry["file"].startswith("images/coco/val2017/")]
    distances = []
    for entry in photographs[::4]:
        made = store_picture((shared / "data" / entry["file"]).read_bytes(), Download(image_size=128))
        distances.append(distance(made.phash, int(entry["phash"], 16)))
    assert len(distances) > 20
    assert max(distances) <= 4
