"""Stray bytes behind a JPEG's pixels go, and no lost pixel is taken for one that was never there."""

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tinygptv.data.pictures.jpeg_scans import ScanError, without_stray_bytes
from tinygptv.data.pictures.storing import PictureError, store_picture
from tinygptv.definitions.source import Download

WANTED = Download(image_size=400, min_side=16)

KINDS = [
    {},
    {"optimize": True},
    {"subsampling": 0},
    {"restart_marker_blocks": 3},
    {"progressive": True},
]


def textured(**options: object) -> bytes:
    """A picture with something in every block."""
    noise = np.random.default_rng(0).normal(0, 20, (100, 140, 3))
    slope = np.linspace(30, 200, 140)[None, :, None]
    stream = io.BytesIO()
    Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85, **options)
    return stream.getvalue()


def reason_of(body: bytes) -> str | None:
    try:
        store_picture(body, WANTED)
    except PictureError as error:
        return error.reason
    return None


@pytest.mark.parametrize("options", KINDS)
def test_what_has_no_stray_bytes_stays_as_it_is(options: dict[str, object]) -> None:
    body = textured(**options)
    assert without_stray_bytes(body) == body


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("filling", [b"\0" * 245, b" " * 9, b"\xff" * 30])
def test_filling_before_the_end_goes(options: dict[str, object], filling: bytes) -> None:
    body = textured(**options)
    assert store_picture(body[:-2] + filling + body[-2:], WANTED).jpeg == body


@pytest.mark.parametrize("options", KINDS[:-1])
@pytest.mark.parametrize("count", [1, 2, 9, 245, 5000])
def test_any_bytes_behind_the_last_pixel_go(options: dict[str, object], count: int) -> None:
    body = textured(**options)
    stray = random.Random(count).randbytes(count).replace(b"\xff", b"\xfe")
    assert without_stray_bytes(body[:-2] + stray + body[-2:]) == body
    assert reason_of(body[:-2] + stray + body[-2:]) is None


def test_bytes_before_a_restart_marker_go() -> None:
    body = textured(restart_marker_blocks=3)
    place = body.index(b"\xff\xd1")
    assert store_picture(body[:place] + bytes(40) + body[place:], WANTED).jpeg == body


def test_grey_and_separate_scans_are_counted() -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "JPEG")
    body = stream.getvalue()
    assert without_stray_bytes(body[:-2] + bytes(9) + body[-2:]) == body


@pytest.mark.parametrize("options", KINDS)
def test_a_cut_picture_is_truncated_wherever_it_was_cut(options: dict[str, object]) -> None:
    body = textured(**options)
    for end in range(len(body) - 1, len(body) // 2, -(len(body) // 60)):
        assert reason_of(body[:end]) == "truncated_image"


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("filling", [0, 0x55])
def test_a_lost_part_that_was_filled_is_not_filling(options: dict[str, object], filling: int) -> None:
    """Blocks of zeros are what interrupted downloads leave; as codes they may stand for more pixels than were lost."""
    body = textured(**options)
    for lost in (64, 300, 900):
        assert reason_of(body[: -2 - lost] + bytes([filling]) * lost + body[-2:]) == "damaged_image"


@pytest.mark.parametrize("options", KINDS)
def test_what_the_decoder_complained_of_is_still_damage(options: dict[str, object]) -> None:
    """A changed byte mostly ends in the same warning as stray bytes: the decoder has pixels left over."""
    body, chance, complaints = textured(**options), random.Random(0), 0
    start = body.rindex(b"\xff\xda") + 20
    for _ in range(80):
        changed = bytearray(body)
        changed[chance.randrange(start, len(body) - 2)] ^= 1 << chance.randrange(8)
        try:
            simplejpeg.decode_jpeg(bytes(changed), "RGBX")
        except ValueError:
            complaints += 1
            assert reason_of(bytes(changed)) in ("damaged_image", "truncated_image")
    assert complaints > 5


def test_a_progressive_picture_without_its_last_scans_has_lost_them() -> None:
    body = textured(progressive=True)
    scans = [place for place in range(len(body)) if body[place : place + 2] == b"\xff\xda"]
    with pytest.raises(ScanError, match="scans missing"):
        without_stray_bytes(body[: scans[-1]] + b"\xff\xd9")
    assert reason_of(body[: scans[-1]]) == "truncated_image"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"\xff\xd1", b"\xff\xd3", 1),
        lambda body: body.replace(b"\xff\xd1", b"", 1),
        lambda body: body[: body.index(b"\xff\xc4")] + body[body.index(b"\xff\xda") :],
        lambda body: body[: body.index(b"\xff\xdd")] + body[body.index(b"\xff\xdd") + 6 :],
        lambda body: body[:-2],
        lambda body: body.replace(b"\xff\xda\0\x0c\3", b"\xff\xda\0\x0c\0"),
    ],
    ids=["order", "missing restart", "no tables", "no interval", "no end", "scan of nothing"],
)
def test_segments_that_do_not_fit_together_are_an_error(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ScanError):
        without_stray_bytes(change(textured(restart_marker_blocks=3)))
