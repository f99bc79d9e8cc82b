"""A released folder answers about a picture."""

from pathlib import Path

import pytest
from PIL import Image

from tests.release.tiny import adapted_model, write_release
from tinygptv.errors import DataError
from tinygptv.models.lora import merge_lora
from tinygptv.release.chat import answer


def test_a_released_model_answers_and_always_the_same(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    said = answer(folder, tmp_path / "red.png", "[vqa] what colour is it?")
    assert said == answer(folder, tmp_path / "red.png", "[vqa] what colour is it?")
    assert "###" not in said


@pytest.mark.parametrize(
    ("question", "message"),
    [("caf\udce9?", "'caf\\\\udce9\\?' is not UTF-8"), ("what? " * 100, r"6\d\d tokens, and the decoder has 256")],
)
def test_a_question_that_cannot_be_asked_is_named(tmp_path: Path, question: str, message: str) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    with pytest.raises(DataError, match=message):
        answer(folder, tmp_path / "red.png", question)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such picture"):
        answer(tmp_path, tmp_path / "nothing.png", "what is it?")
