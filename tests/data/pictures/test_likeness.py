"""A harmless change leaves a picture the same; another word, number or colour on one layout makes it another."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from tinygptv.data.pictures.likeness import COLOURS_BYTES, is_like_any, look

Change = Callable[[Image.Image], Image.Image]


def saved(picture: Image.Image, quality: int = 92) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def alike(one: Image.Image, other: Image.Image, quality: int = 92) -> bool:
    return like_any(saved(one), [saved(other, quality)])


def like_any(one: bytes, others: list[bytes]) -> bool:
    looks = [look(other) for other in others]
    colours = np.array([each.colours for each in looks], np.uint8).reshape(len(looks), COLOURS_BYTES)
    return is_like_any(look(one), colours, lambda place: looks[place].detail)


def sign(text: str, size: int = 90, colour: str = "black") -> Image.Image:
    picture = Image.new("RGB", (448, 448), (0, 90, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse([40, 40, 408, 408], fill="white", outline="red", width=30)
    draw.text((224, 224), text, fill=colour, font=ImageFont.load_default(size), anchor="mm")
    return picture


@pytest.fixture(scope="module")
def photograph(shared: Path) -> Image.Image:
    path = sorted((shared / "data/images/coco/val2017").glob("*.jpg"))[3]
    with Image.open(path) as picture:
        return picture.convert("RGB")


CHANGES: dict[str, Change] = {
    "none": lambda one: one,
    "half as large": lambda one: one.resize((one.width // 2, one.height // 2)),
    "twice as large": lambda one: one.resize((one.width * 2, one.height * 2)),
    "2 % wider": lambda one: one.resize((round(one.width * 1.02), one.height)),
    "cut by 2 px on each side": lambda one: one.crop((2, 2, one.width - 2, one.height - 2)),
    "blurred": lambda one: one.filter(ImageFilter.GaussianBlur(1)),
    "brighter": lambda one: ImageEnhance.Brightness(one).enhance(1.03),
    "less contrast": lambda one: ImageEnhance.Contrast(one).enhance(0.95),
    "another tone curve": lambda one: one.point([round(255 * (value / 255) ** 1.07) for value in range(256)] * 3),
    "paler": lambda one: ImageEnhance.Color(one).enhance(0.9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_harmless_change_leaves_a_photograph_and_a_sign_the_same(photograph: Image.Image, change: str) -> None:
    for picture in (photograph, sign("60")):
        assert alike(picture, CHANGES[change](picture), quality=60)
        assert alike(CHANGES[change](picture), picture, quality=60)


@pytest.mark.parametrize("size", [20, 30, 60, 90])
def test_another_number_on_the_same_layout_is_another_picture(size: int) -> None:
    for one, other in combinations(["30", "60", "80", "90", "38"], 2):
        assert not alike(sign(one, size), sign(other, size)), f"{one} and {other}"


def test_large_faint_writing_counts() -> None:
    for one, other in combinations(["30", "60", "80"], 2):
        assert not alike(sign(one, 120, colour="#d0d0d0"), sign(other, 120, colour="#d0d0d0"))


def test_writing_that_is_there_or_not_makes_another_picture(photograph: Image.Image) -> None:
    marked = photograph.copy()
    ImageDraw.Draw(marked).text((20, 20), "Tuesday", fill="white", stroke_fill="black", stroke_width=2, font_size=36)
    assert not alike(photograph, marked)
    assert not alike(sign(""), sign("50"))


def test_a_small_part_of_another_colour_and_equal_brightness_makes_another_picture() -> None:
    def lamp(colour: tuple[int, int, int]) -> Image.Image:
        picture = Image.new("RGB", (448, 448), (128, 128, 128))
        ImageDraw.Draw(picture).ellipse([200, 200, 232, 232], fill=colour)
        return picture

    red, green = (200, 40, 40), (30, 127, 30)
    assert abs(np.dot(red, [0.299, 0.587, 0.114]) - np.dot(green, [0.299, 0.587, 0.114])) < 2
    assert alike(lamp(red), lamp(red), quality=50)
    assert not alike(lamp(red), lamp(green))


def test_plain_pictures_are_the_same_only_in_one_colour() -> None:
    plain = {name: Image.new("RGB", (64, 64), name) for name in ("black", "white", "red", "gray")}
    for one, other in combinations(plain, 2):
        assert not alike(plain[one], plain[other])
        assert alike(plain[one], plain[one])


def test_one_is_found_among_more_pictures_of_its_layout_than_are_fitted(photograph: Image.Image) -> None:
    others = [saved(sign(f"{number}", 60)) for number in range(10, 50)]
    assert like_any(saved(sign("44", 60), 50), others)
    assert not like_any(saved(sign("99", 60), 50), others)
    assert not like_any(saved(photograph), others)


def test_none_is_like_no_pictures_at_all() -> None:
    assert not like_any(saved(sign("10")), [])
