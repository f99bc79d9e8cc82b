"""Pictures become what their vision encoder asks for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.pictures.pixels import decode, transform
from tinygptv.definitions.preprocessing import CLIP, Preprocessing


@pytest.fixture(scope="module")
def wide() -> bytes:
    """Red, green and blue thirds, 48 x 16 px."""
    image = Image.new("RGB", (48, 16), (255, 0, 0))
    image.paste((0, 255, 0), (16, 0, 32, 16))
    image.paste((0, 0, 255), (32, 0, 48, 16))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_crop_keeps_the_centre_in_its_proportions(wide: bytes) -> None:
    pixels = decode(wide, 16, "here", preprocessing=Preprocessing(fit="crop"))
    assert (pixels == np.array([0, 255, 0], np.uint8)[:, None, None]).all()


def test_a_padded_picture_is_whole_between_bars_of_the_mean_colour(wide: bytes) -> None:
    pixels = decode(wide, 48, "here", preprocessing=Preprocessing(fit="pad"))
    assert pixels[:, 24, [8, 24, 40]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert pixels[:, 2, 8].tolist() == pixels[:, 45, 40].tolist() == [122, 116, 104]


def test_a_stretched_picture_fills_the_square(wide: bytes) -> None:
    pixels = decode(wide, 48, "here")
    assert pixels[:, 2, [4, 24, 44]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_the_interpolation_is_the_encoders(wide: bytes) -> None:
    bilinear = decode(wide, 7, "here", preprocessing=Preprocessing(interpolation="bilinear"))
    expected = Image.open(io.BytesIO(wide)).resize((7, 7), Image.Resampling.BILINEAR)
    assert np.array_equal(bilinear, np.asarray(expected).transpose(2, 0, 1))
    assert not np.array_equal(bilinear, decode(wide, 7, "here"))


def test_the_fast_way_is_left_where_it_knows_no_other_fit() -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((60, 30)).save(stream, "JPEG")
    padded = Preprocessing(fit="pad")
    fast, exact = (decode(stream.getvalue(), 32, "here", how, preprocessing=padded) for how in ("fast", "exact"))
    assert np.array_equal(fast, exact)


def test_pixels_are_normalised_by_the_encoders_statistics() -> None:
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    half = Preprocessing(mean=[0.5, 0.5, 0.0], deviation=[0.5, 0.25, 1.0])
    assert normalise(pixels, half)[0, :, 0, 0].tolist() == [1.0, 2.0, 1.0]


def test_what_decides_about_features_names_what_differs_from_clips() -> None:
    assert "fit" not in transform(224, preprocessing=CLIP)
    changed = transform(224, preprocessing=Preprocessing(fit="crop", interpolation="bilinear", mean=[0.5, 0.5, 0.5]))
    assert (changed["fit"], changed["resize"], changed["mean"]) == ("crop", "bilinear", [0.5, 0.5, 0.5])
