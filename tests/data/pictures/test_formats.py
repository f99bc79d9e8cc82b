"""What is not the picture does not decide about the picture: for every format, each other part too large, broken or
with a wrong checksum gives the pixels of the plain file."""

import importlib
import io
import logging
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.images import cases, check
from tinygptv.data.pictures import jxl, plugins
from tinygptv.data.pictures.formats import PictureError, sniff
from tinygptv.data.pictures.storing import StoredPicture, store_picture
from tinygptv.definitions.source import Download

WANTED = Download(image_size=64, min_side=16, max_pixels=4_000_000)
BOMB = zlib.compress(bytes(40_000_000))
WHITE = [255, 255, 255]
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Left, top and steps of PNG's interlaced passes."""

Chunks = list[tuple[bytes, bytes]]


def stored(body: bytes, **options: Any) -> StoredPicture:
    return store_picture(body, WANTED.model_copy(update=options))


def refused(body: bytes, **options: Any) -> str:
    with pytest.raises(PictureError) as raised:
        stored(body, **options)
    return raised.value.reason


def pixels(body: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(stored(body).jpeg)) as image:
        return np.asarray(image).astype(int)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scene(width: int = 60, height: int = 44) -> Image.Image:
    shade = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (shade, shade.rotate(180), shade.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))


def red(width: int = 30, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), "red")


def is_red_on_white(shown: np.ndarray, left: int, top: int, width: int = 30, height: int = 20) -> bool:
    inside = np.zeros(shown.shape[:2], bool)
    inside[top : top + height, left : left + width] = True
    near = np.abs(shown - np.where(inside[..., None], [255, 0, 0], WHITE)).max(2) < 60
    return bool(near.mean() > 0.9)


def png_chunks(body: bytes) -> Chunks:
    found, position = [], 8
    while position < len(body):
        end = position + 8 + int.from_bytes(body[position : position + 4], "big")
        found.append((body[position + 4 : position + 8], body[position + 8 : end]))
        position = end + 4
    return found


def png_chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", found)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


def header(width: int, height: int, bits: int, colour: int, interlace: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)


# PNG


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"gAMA", b"sPLT", b"acTL", b"fcTL", b"abCd"])
@pytest.mark.parametrize("content", [b"", b"x\0\0" + BOMB, b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB, b"\xff" * 40])
@pytest.mark.parametrize("place", [1, -1])
def test_ancillary_chunks_of_png_decide_nothing(name: bytes, content: bytes, place: int) -> None:
    plain = encoded(scene(), "PNG")
    chunks = png_chunks(plain)
    chunks.insert(place, (name, content))
    assert stored(png(*chunks)) == stored(plain)


def test_a_wrong_checksum_is_damage_where_pixels_are_and_nothing_elsewhere() -> None:
    plain = encoded(scene(), "PNG")
    parts = [png_chunk(*one) for one in png_chunks(plain)]
    noted = [*parts[:1], png_chunk(b"tEXt", b"a\0b", checksum=1), *parts[1:-1], png_chunk(b"IEND", b"", checksum=1)]
    assert stored(plain[:8] + b"".join(noted)) == stored(plain)
    for wrong in (0, 1):
        broken = [one[:-4] + bytes(4) if number == wrong else one for number, one in enumerate(parts)]
        assert refused(plain[:8] + b"".join(broken)) == "damaged_image"


def test_png_pixels_may_lie_in_any_pieces_and_lack_what_follows_them() -> None:
    plain = encoded(scene(), "PNG")
    first, (_, data), end = png_chunks(plain)
    pieces = [(b"IDAT", piece) for piece in (b"", data[:30], b"", data[30:], b"")]
    assert stored(png(first, *pieces[:2], (b"tEXt", b"a\0b"), *pieces[2:], end)) == stored(plain)
    assert stored(plain[:-12]) == stored(plain[:-14]) == stored(plain + b"and more") == stored(plain)
    assert stored(plain[:-12] + b"\0\0\0\x09garbage\0\0" + plain[-12:]) == stored(plain)
    assert refused(plain[:-60]) == "truncated_image"


def test_apples_png_and_unknown_critical_chunks_are_another_format() -> None:
    chunks = png_chunks(encoded(scene(), "PNG"))
    assert refused(png((b"CgBI", b"\x50\0\x20\2"), *chunks)) == "unsupported_format"
    assert refused(png(chunks[0], (b"NEWS", b""), *chunks[1:])) == "unsupported_format"


def test_a_palette_behind_the_pixels_is_none() -> None:
    first, palette, data, end = png_chunks(encoded(scene().quantize(16), "PNG"))
    assert palette[0] == b"PLTE"
    assert refused(png(first, data, palette, end)) == "damaged_image"


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_found_at_every_depth(bits: int) -> None:
    most = (1 << bits) - 1
    row = b"\0" + int("".join(f"{level:0{bits}b}" for level in [0] * 20 + [most] * 20), 2).to_bytes(5 * bits, "big")
    image = (b"IDAT", zlib.compress(row * 40))
    shown = pixels(png(header(40, 40, bits, 0), (b"tRNS", struct.pack(">H", 0)), image, (b"IEND", b"")))
    assert shown.min() > 240
    shown = pixels(png(header(40, 40, bits, 0), (b"tRNS", struct.pack(">H", most)), image, (b"IEND", b"")))
    assert shown[:, :18].max() < 20 and shown[:, 22:].min() > 235


def test_a_transparent_colour_is_found_in_16_bits() -> None:
    row = b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 40
    transparent = (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    shown = pixels(png(header(40, 40, 16, 2), transparent, (b"IDAT", zlib.compress(row * 40)), (b"IEND", b"")))
    assert shown.min() > 250


def test_an_interlaced_png_is_read() -> None:
    levels = np.asarray(scene(40, 40))
    rows = b""
    for x, y, across, down in ADAM7:
        rows += b"".join(b"\0" + row.tobytes() for row in levels[y::down, x::across])
    body = png(header(40, 40, 8, 2, interlace=1), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    assert stored(body).jpeg == stored(encoded(scene(40, 40), "PNG")).jpeg


def test_an_animation_that_its_default_image_is_not_part_of_begins_where_browsers_begin_it() -> None:
    first, default, end = png_chunks(encoded(scene(), "PNG"))
    data = next(content for name, content in png_chunks(encoded(red(), "PNG")) if name == b"IDAT")
    frame = (b"fcTL", struct.pack(">IIIIIHHBB", 0, 30, 20, 10, 5, 1, 10, 0, 0))
    animated = (b"acTL", struct.pack(">II", 2, 0))
    body = png(first, animated, default, frame, (b"fdAT", struct.pack(">I", 1) + data), end)
    assert is_red_on_white(pixels(body), 10, 5)
    assert refused(body, animated="refuse") == "animated"
    beyond = (b"fcTL", struct.pack(">IIIIIHHBB", 0, 30, 20, 50, 5, 1, 10, 0, 0))
    broken = png(first, animated, default, beyond, (b"fdAT", struct.pack(">I", 1) + data), end)
    assert stored(broken) == stored(encoded(scene(), "PNG"))


# GIF


def placed_gif(width: int, height: int, left: int, top: int) -> bytes:
    body = bytearray(encoded(red().quantize(4), "GIF"))
    frame = body.index(b",\0\0\0\0")
    body[6:10], body[frame + 1 : frame + 5] = struct.pack("<HH", width, height), struct.pack("<HH", left, top)
    return bytes(body)


def test_what_a_gif_frame_leaves_of_its_screen_is_white() -> None:
    shown = pixels(placed_gif(60, 50, 10, 5))
    assert shown.shape == (50, 60, 3)
    assert is_red_on_white(shown, 10, 5)


def test_a_gif_frame_larger_than_its_screen_enlarges_it() -> None:
    for screen in ((10, 10), (0, 0)):
        assert stored(placed_gif(*screen, 0, 0)).jpeg == stored(placed_gif(30, 20, 0, 0)).jpeg
    assert refused(placed_gif(65535, 65535, 0, 0)) == "too_many_pixels"


@pytest.mark.parametrize(
    "extension",
    [
        b"!\xfe" + (b"\xff" + b"x" * 255) * 5000 + b"\0",
        b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
        b"!\xff\x0bXMP DataXMP" + b"\x05hello\0",
        b"!\x01\x0c" + bytes(12) + b"\x05hello\0",
        b"!\x77\0",
        b"\0\0\0",
    ],
)
def test_extensions_of_gif_decide_nothing(extension: bytes) -> None:
    plain = encoded(scene(), "GIF")
    frame = plain.index(b",\0\0\0\0")
    assert stored(plain[:frame] + extension + plain[frame:]) == stored(plain)
    assert stored(plain[:-1] + extension + b";") == stored(plain[:-1]) == stored(plain + b"more;") == stored(plain)


# WebP


def riff_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)


@pytest.mark.parametrize("name", [b"ICCP", b"EXIF", b"XMP ", b"JUNK"])
@pytest.mark.parametrize("content", [b"", b"x", BOMB])
def test_other_chunks_of_webp_decide_nothing(name: bytes, content: bytes) -> None:
    clear = scene()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    plain = encoded(clear, "WEBP", icc_profile=b"something")
    assert plain[12:16] == b"VP8X"
    chunk = riff_chunk(name, content)
    for changed in (plain[:30] + chunk + plain[30:], plain + chunk, plain + b"more"):
        assert stored(changed) == stored(plain)
    assert stored(plain[:4] + bytes(4) + plain[8:]) == stored(plain)
    assert stored(plain + chunk[:6]) == stored(plain)


def test_what_a_webp_frame_leaves_of_its_canvas_is_white() -> None:
    body = bytearray(encoded(red(), "WEBP", save_all=True, append_images=[scene(30, 20)], lossless=True))
    frame = body.index(b"ANMF") + 8
    body[24:30] = b"\x3b\0\0\x31\0\0"  # 60 x 50
    body[frame : frame + 6] = b"\5\0\0\2\0\0"  # at 10, 4
    shown = pixels(bytes(body))
    assert shown.shape == (50, 60, 3)
    assert is_red_on_white(shown, 10, 4)
    assert refused(bytes(body), animated="refuse") == "animated"
    body[frame : frame + 6] = b"\x40\0\0\2\0\0"
    assert refused(bytes(body)) == "damaged_image"


# TIFF


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("tag", [270, 700, 33723, 34377, 34665, 34675, 34853, 50341, 65000])
@pytest.mark.parametrize("value", [(2, 0xFFFFFFF0, 8), (7, 100, 0xFFFFFFF0), (99, 1, 1), (4, 1, 8), (5, 3, 1)])
def test_other_fields_of_tiff_decide_nothing(is_big: bool, tag: int, value: tuple[int, int, int]) -> None:
    plain = encoded(scene(), "TIFF", big_tiff=is_big, software="x" * 30)
    entry, order = ("<HHQQ", "<HHQ8s") if is_big else ("<HHII", "<HHI4s")
    place = next(
        place for place in range(0, len(plain) - 20) if struct.unpack_from(order, plain, place)[:3] == (305, 2, 31)
    )
    changed = plain[:place] + struct.pack(entry, tag, *value) + plain[place + struct.calcsize(entry) :]
    assert stored(changed) == stored(plain)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B"])
def test_modes_of_tiff_are_shown_as_they_are(mode: str) -> None:
    image = scene().convert("L")
    if mode.startswith("I;16"):
        levels = np.asarray(image).astype(">u2" if mode.endswith("B") else "<u2") * 257
        image = Image.frombytes(mode, image.size, levels.tobytes())
    else:
        image = scene().convert("L").convert("P") if mode == "P" else scene().convert(mode)
    expected = scene().convert("L") if mode.startswith("I;16") else image
    assert np.abs(pixels(encoded(image, "TIFF")) - np.asarray(expected.convert("RGB"))).mean() < 3


def test_a_tiff_is_refused_for_what_it_lacks() -> None:
    plain = encoded(scene(), "TIFF")
    assert refused(plain[:-500]) == refused(plain[:20]) == "truncated_image"
    assert refused(encoded(Image.new("LAB", (40, 40)), "TIFF")) == "unsupported_format"
    pages = encoded(scene(), "TIFF", save_all=True, append_images=[red()])
    assert stored(pages).jpeg == stored(plain).jpeg
    assert refused(pages, animated="refuse") == "animated"


def raw_tiff(pixels: np.ndarray, photometric: int, planes: int = 1) -> bytes:
    """(40, 40, samples) of 16 bits, in one strip."""
    samples, content = pixels.shape[2], pixels.tobytes()
    end = 8 + len(content)
    fields = [(256, 3, 1, 40), (257, 3, 1, 40), (258, 3, samples, 16 if samples == 1 else end + 114), (259, 3, 1, 1)]
    fields += [(262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, 40)]
    fields += [(279, 4, 1, len(content))] + ([(284, 3, 1, planes)] if planes > 1 else [])
    directory = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *one) for one in fields) + bytes(4)
    return b"II*\0" + struct.pack("<I", end) + content + directory.ljust(114, b"\0") + struct.pack("<3H", 16, 16, 16)


def test_16_bits_of_tiff_are_shown_as_they_are_or_refused() -> None:
    grey, colours = np.asarray(scene(40, 40).convert("L"))[..., None], np.asarray(scene(40, 40))
    wide, wide_colours = grey.astype("<u2") * 257, colours.astype("<u2") * 257
    assert np.abs(pixels(raw_tiff(wide, photometric=1)) - grey).mean() < 2
    assert np.abs(pixels(raw_tiff(65535 - wide, photometric=0)) - grey).mean() < 2
    assert np.abs(pixels(raw_tiff(wide_colours, photometric=2)) - colours).mean() < 3
    assert refused(raw_tiff(wide_colours, photometric=2, planes=2)) == "unsupported_format"


# BMP


def bmp(bits: int, compression: int, height: int, content: bytes, masks: bytes = b"") -> bytes:
    size = 108 if masks else 40
    info = struct.pack("<IiiHHIIiiII", size, 40, height, 1, bits, compression, len(content), 0, 0, 0, 0)
    info += masks + bytes(size - 40 - len(masks)) if masks else b""
    return b"BM" + struct.pack("<IHHI", 14 + size + len(content), 0, 0, 14 + size) + info + content


def test_bmp_is_read_from_either_end_and_without_an_empty_alpha() -> None:
    levels = np.asarray(scene(40, 40))[..., ::-1]
    expected = stored(encoded(scene(40, 40), "BMP")).jpeg
    assert stored(bmp(24, 0, 40, levels[::-1].tobytes())).jpeg == expected
    assert stored(bmp(24, 0, -40, levels.tobytes())).jpeg == expected
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    clear = np.dstack([levels, np.zeros((40, 40), np.uint8)])
    assert stored(bmp(32, 3, -40, clear.tobytes(), masks)).jpeg == expected
    clear[:20, :, 3] = 255
    shown = pixels(bmp(32, 3, -40, clear.tobytes(), masks))
    assert shown[22:].min() > 240
    assert refused(bmp(24, 4, 40, bytes(900))) == "unsupported_format"


# AVIF, HEIC and JPEG XL


def test_exif_and_xmp_of_avif_decide_nothing() -> None:
    plain = encoded(scene(), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x:xmpmeta/>", speed=10)
    assert b"Exif" in plain and b"mime" in plain
    broken = plain.replace(b"II*\0\x08", b"\xff\xff\xff\xff\xff")
    assert stored(broken) == stored(plain)


def test_heic_is_read_upright() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    pillow_heif.from_pillow(scene()).save(stream, exif=exif.tobytes(), quality=90)
    body = stream.getvalue()
    made = stored(body)
    assert (made.original_format, made.original_width, made.original_height) == ("heic", 44, 60)
    assert np.abs(pixels(body) - np.asarray(scene().rotate(270, expand=True))).mean() < 8
    assert stored(body.replace(b"MM\0*", b"\xff\xff\xff\xff").replace(b"II*\0", b"\xff\xff\xff\xff")) == made
    assert refused(body, max_pixels=2000) == "too_many_pixels"
    assert refused(body[:-200]) == "truncated_image"
    assert refused(body.replace(b"hvcC", b"none")) == "damaged_image"


def jxl_encoded(image: Image.Image, **options: Any) -> bytes:
    pytest.importorskip("pillow_jxl")
    return encoded(image, "JXL", **options)


@pytest.mark.parametrize("boxed", [False, True])
def test_jpeg_xl_is_read(boxed: bool) -> None:
    body = jxl_encoded(scene(), use_container=boxed, lossless=True)
    made = stored(body)
    assert (made.original_format, made.width, made.height) == ("jxl", 60, 44)
    assert np.abs(pixels(body) - np.asarray(scene())).mean() < 3
    assert refused(body, max_pixels=2000) == "too_many_pixels"
    assert refused(body[:-30]) == "damaged_image"
    clear = scene()
    clear.putalpha(0)
    assert pixels(jxl_encoded(clear, use_container=boxed)).min() > 250


@pytest.mark.parametrize("size", [(64, 64), (256, 64), (100, 60), (90, 60), (1000, 37), (1920, 1080), (37, 1000)])
def test_the_size_of_jpeg_xl_is_read_before_its_pixels(size: tuple[int, int]) -> None:
    found = jxl.read_header(jxl_encoded(scene(*size), use_container=size[0] == 100, effort=1))
    assert (found.width, found.height, found.is_animated) == (*size, False)


@pytest.mark.parametrize("body", [b"\xff\x0a", b"\xff\x0a\xff", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cJXL " * 9])
def test_a_jpeg_xl_without_a_size_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut|no codestream"):
        jxl.read_header(body)


def test_a_jpeg_packed_in_jpeg_xl_keeps_its_pixels_to_the_bit() -> None:
    package = pytest.importorskip("pillow_jxl")
    plain = encoded(scene(), "JPEG")
    packed = package.Encoder(mode="RGB", num_threads=0, quality=100)(plain, 60, 44, jpeg_encode=True)
    made = stored(packed)
    assert (made.jpeg, made.reencoded, made.original_format) == (plain, False, "jxl")


def test_a_format_without_its_package_is_unsupported_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(plugins, "_imported", {})
    monkeypatch.setattr(importlib, "import_module", missing)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    with caplog.at_level(logging.WARNING):
        for body in (heic, heic, b"\xff\x0a" + bytes(40)):
            assert refused(body) == "unsupported_format"
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["tinygptv[heic]", "tinygptv[jxl]"]


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x14ftyphevc\0\0\0\0", "heic"),
        (b"II+\0\x08\0\0\0", "tiff"),
        (b"\xff\x0a\xba", "jxl"),
    ],
)
def test_a_format_is_known_by_its_first_bytes(start: bytes, kind: str) -> None:
    assert sniff(start + bytes(30)) == kind


# JPEG


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
@pytest.mark.parametrize("content", [b"", b"\xff" * 60_000, b"JFXX\0\x10\xff\xd8\xff\xd9", b"ICC_PROFILE\0\xff\xff"])
def test_application_segments_and_comments_of_jpeg_decide_nothing(marker: int, content: bytes) -> None:
    plain = encoded(scene(), "JPEG")
    assert stored(plain[:2] + segment(marker, content) + plain[2:]).jpeg == plain
    assert stored(plain[:-2] + segment(marker, content) + plain[-2:]).jpeg == plain


def test_codings_that_browsers_do_not_read_are_unsupported() -> None:
    plain = encoded(scene(), "JPEG")
    frame = plain.index(b"\xff\xc0")
    for coding in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB):
        assert refused(plain[: frame + 1] + bytes([coding]) + plain[frame + 2 :]) == "unsupported_format"
    assert refused(plain[: frame + 4] + b"\x0c" + plain[frame + 5 :]) == "unsupported_format"
    assert refused(plain[: frame + 5] + b"\0\0" + plain[frame + 7 :]) == "unsupported_format"
    assert refused(plain[: frame + 9] + b"\2" + plain[frame + 10 :]) == "unsupported_format"


def test_of_several_pictures_in_a_file_the_first_is_kept() -> None:
    plain = encoded(scene(), "JPEG")
    assert stored(plain + encoded(red(), "JPEG")).jpeg == plain
    assert stored(encoded(scene(), "MPO", save_all=True, append_images=[red()])).jpeg == plain


# Anything


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_whatever_bytes_come_they_are_a_picture_or_a_reason() -> None:
    for seed in range(1500):
        check(cases(random.Random(seed)))
