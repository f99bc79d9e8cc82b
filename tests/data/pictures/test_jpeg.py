"""A JPEG's layout is read without decoding it, and nothing cut or out of place is taken for whole."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tinygptv.data.pictures.jpeg import TruncatedJpegError, orientation_of, read_layout


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(body: bytes, *segments: bytes) -> bytes:
    return body[:2] + b"".join(segments) + body[2:]


def exif(order: str, value: int, tag: int = 0x0112) -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IHHHIHH", 8, 1, tag, 3, 1, value, 0)


def test_size_and_shape_are_read_from_the_frame(picture: Callable[..., bytes]) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
        layout = read_layout(picture(61, 47, **options))
        assert (layout.width, layout.height, layout.components, layout.orientation) == (61, 47, 3, 1)
    grey = io.BytesIO()
    Image.new("L", (9, 7)).save(grey, "JPEG")
    assert read_layout(grey.getvalue()).components == 1


def test_only_what_decoders_need_is_kept(picture: Callable[..., bytes]) -> None:
    plain = picture(60, 50)
    adobe = segment(0xEE, b"Adobe\0d\0\0\0\0\1")
    body = with_segments(
        plain,
        segment(0xE1, b"Exif\0\0" + exif("<", 1)),
        adobe,
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(600)),
        segment(0xED, b"Photoshop 3.0\0"),
        segment(0xFE, b"a comment with \xff\xd9 in it"),
    )
    kept = read_layout(body + b"trailer").without_metadata(body + b"trailer")
    assert kept == with_segments(plain, adobe)


def test_nothing_is_copied_if_nothing_has_to_go(picture: Callable[..., bytes]) -> None:
    body = picture(60, 50)
    assert read_layout(body).without_metadata(body) is body


def test_a_thumbnail_within_the_metadata_is_not_the_picture(picture: Callable[..., bytes]) -> None:
    body = with_segments(picture(60, 50), segment(0xE1, b"Exif\0\0" + exif(">", 1) + picture(16, 12)))
    layout = read_layout(body)
    assert (layout.width, layout.height) == (60, 50)
    with Image.open(io.BytesIO(layout.without_metadata(body))) as kept, Image.open(io.BytesIO(body)) as whole:
        assert np.array_equal(np.asarray(kept), np.asarray(whole))


def test_space_before_a_marker_may_be_filled(picture: Callable[..., bytes]) -> None:
    body = picture(60, 50)
    filled = body[:2] + b"\xff\xff\xff" + body[2:-2] + b"\xff\xff" + body[-2:]
    assert read_layout(filled).width == 60


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_no_cut_is_taken_for_whole(picture: Callable[..., bytes], options: dict[str, bool]) -> None:
    body = picture(24, 24, **options)
    for kept in range(2, len(body)):
        with pytest.raises(TruncatedJpegError):
            read_layout(body[:kept])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda body: body[:2] + body, "a second picture begins at byte 2"),
        (lambda body: with_segments(body, b"\xff\xe5\0\1"), "segment of 1 bytes"),
        (lambda body: body[:2] + b"\xff\xd9", "no frame"),
        (lambda body: body.replace(b"\xff\xc0\0\x11\x08\0\x32", b"\xff\xc0\0\x11\x08\0\0"), "no frame with a size"),
    ],
)
def test_what_is_out_of_place_is_refused(
    picture: Callable[..., bytes], change: Callable[[bytes], bytes], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        read_layout(change(picture(60, 50)))


def test_a_small_file_cannot_ask_for_passes_without_end(picture: Callable[..., bytes]) -> None:
    body = picture(60, 50, progressive=True)
    scan = body.rindex(b"\xff\xda")
    last, end = body[scan:-2], body[-2:]
    assert read_layout(body[:scan] + last * 20 + end).width == 60
    with pytest.raises(ValueError, match=r"\d+ scans"):
        read_layout(body[:scan] + last * 200 + end)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(order: str) -> None:
    assert [orientation_of(exif(order, value)) for value in range(10)] == [1, 1, 2, 3, 4, 5, 6, 7, 8, 1]
    assert orientation_of(exif(order, 6, tag=0x0110)) == 1


@pytest.mark.parametrize("block", [b"", b"II", b"nonsense", exif("<", 6)[:9], b"II*\0\xff\xff\xff\xff"])
def test_a_block_that_makes_no_sense_turns_nothing(block: bytes) -> None:
    assert orientation_of(block) == 1
