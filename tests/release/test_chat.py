"""A released model answers questions about an image."""

from pathlib import Path

import pytest
from PIL import Image

from tests.release.tiny import adapted_model, write_release
from tinygptv.errors import DataError
from tinygptv.models.lora import merge_lora
from tinygptv.release.chat import answer


def test_a_released_model_answers_deterministically(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    reply = answer(folder, tmp_path / "red.png", "[vqa] what colour is it?")
    assert reply == answer(folder, tmp_path / "red.png", "[vqa] what colour is it?")
    assert "###" not in reply


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("caf\udce9?", "'caf\\\\udce9\\?' is not valid UTF-8"),
        ("what? " * 100, r"6\d\d tokens, but the decoder has 256"),
    ],
)
def test_a_question_that_cannot_be_asked_is_named(tmp_path: Path, question: str, message: str) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    with pytest.raises(DataError, match=message):
        answer(folder, tmp_path / "red.png", question)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such image"):
        answer(tmp_path, tmp_path / "nothing.png", "what is it?")


def test_a_photo_with_exif_rotation_is_seen_upright(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    scene = Image.new("RGB", (64, 64), "white")
    scene.paste("black", (0, 0, 64, 30))
    exif = scene.getexif()
    exif[0x0112] = 6
    scene.save(tmp_path / "turned.png", exif=exif)
    scene.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    scene.save(tmp_path / "sideways.png")
    turned, upright, sideways = (
        answer(folder, tmp_path / f"{name}.png", "[vqa] what is it?") for name in ("turned", "upright", "sideways")
    )
    assert turned == upright != sideways


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"8BPS\0\1" + bytes(40)])
def test_a_file_that_is_not_an_image_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(DataError, match=r"picture\.png, chat: \d+ bytes that do not decode as an image"):
        answer(folder, tmp_path / "picture.png", "[vqa] what is it?")
