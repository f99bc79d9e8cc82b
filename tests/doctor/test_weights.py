"""Weight checks: shipped files match their recorded hashes, and missing weights of a recipe are reported."""

import json
from pathlib import Path

import pytest

from tinygptv.doctor import weights
from tinygptv.errors import DataError, DefinitionError, HandoffError, SetupError


@pytest.mark.parametrize("content", [b"other bytes", None])
def test_a_damaged_or_missing_backbone_is_found(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backbones" / "shapes"
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"tower": {"files": {"weights": "0" * 64}}}))
    if content is not None:
        (folder / "weights").write_bytes(content)
    monkeypatch.setattr(weights, "PACKAGE", tmp_path)
    with pytest.raises(SetupError, match="missing or damaged"):
        weights.backbones_are_complete()


def test_every_weight_file_of_a_recipe_is_checked() -> None:
    assert weights.locations("tinygptv") == [
        "data:eva_vit_g.pth",
        "data:blip2_pretrained_flant5xxl.pth",
        "data:pretrained_minigpt4_7b.pth",
        "data:phi-2",
    ]
    with pytest.raises(DefinitionError, match="no recipe named 'tinygptw'"):
        weights.locations("tinygptw")


def test_shipped_weights_are_opened() -> None:
    lines = [weights.weights_are_there(location) for location in weights.locations("tinygptv_tiny")]
    assert ["tensors" in one for one in lines] == [True, True, True, False]
    assert "a tokenizer" in lines[-1]


def test_missing_weights_say_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINYGPTV_DATA", raising=False)
    with pytest.raises(DefinitionError, match="TINYGPTV_DATA is not set"):
        weights.weights_are_there("data:eva_vit_g.pth")
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path))
    with pytest.raises(DataError, match="put the file there"):
        weights.weights_are_there("data:eva_vit_g.pth")
    (tmp_path / "eva_vit_g.pth").write_text("version https://git-lfs.github.com/spec/v1\nsize 2000000000\n")
    with pytest.raises(HandoffError, match="git lfs pull"):
        weights.weights_are_there("data:eva_vit_g.pth")
