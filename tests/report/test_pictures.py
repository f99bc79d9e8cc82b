"""Pictures on a page look as the model saw them; what cannot be read is said and ends no page."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygptv.report.pictures import Picture, picture


def pixels(shown: Picture) -> np.ndarray:
    assert shown.uri
    with Image.open(io.BytesIO(base64.b64decode(shown.uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def test_sixteen_bits_and_transparency_are_shown_as_models_see_them(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 30_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (20, 20)).save(tmp_path / "clear.png")
    assert (pixels(picture(tmp_path / "deep.png")) == 30_000 >> 8).all()
    assert (pixels(picture(tmp_path / "clear.png")) == 255).all()


@pytest.mark.parametrize("content", [b"", b"<html>gone</html>", b"8BPS\0\1" + bytes(40), None])
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert picture(tmp_path / "a.png") == Picture(None, absent="picture not readable")
