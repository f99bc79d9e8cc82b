"""Scores of a CLIP of the library open_clip, which is installed only by those who ask for it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.data.raw import pixels
from tinygptv.definitions.scorer import OpenClipScorer
from tinygptv.errors import DataError, SetupError
from tinygptv.judging.opening import open_judge


@pytest.fixture
def scorer(tmp_path: Path) -> OpenClipScorer:
    (tmp_path / "clip.pt").write_bytes(b"weights")
    return OpenClipScorer(kind="open_clip", about="test", model="made-up", weights=str(tmp_path / "clip.pt"), batch=2)


class Brightness(nn.Module):
    """Pictures and texts as two numbers: light and dark."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        light = pixels.mean(dim=(1, 2, 3))
        return 3 * torch.stack([light, 1 - light], dim=1)

    def encode_text(self, texts: Tensor) -> Tensor:
        return 5 * texts.float()


def test_without_the_library_it_says_what_to_install(scorer: OpenClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SetupError, match=r"pip install 'tinygptv\[open_clip\]'"):
        open_judge(scorer)


def test_the_score_is_the_cosine_of_each_pair(scorer: OpenClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def transform(picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)

    def tokens(captions: Sequence[str]) -> Tensor:
        return torch.tensor([[1, 0] if caption == "light" else [0, 1] for caption in captions])

    made = (Brightness(), None, transform)
    library = SimpleNamespace(create_model_and_transforms=lambda *_, **__: made, get_tokenizer=lambda _: tokens)
    monkeypatch.setitem(sys.modules, "open_clip", library)
    judge = open_judge(scorer)
    images = [pixels("one"), pixels("other")]
    light, dark = (judge.score(images, [said] * 2)["clip"] for said in ("light", "dark"))
    np.testing.assert_allclose(light**2 + dark**2, 1, atol=1e-6)
    assert judge.score(images, ["light", "dark"])["embedding"].shape[0] == 2
    with pytest.raises(DataError, match="do not decode"):
        judge.score([b"no picture"], ["light"])
