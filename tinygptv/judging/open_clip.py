"""Similarity by a CLIP of the library open_clip, which is not installed unless asked for."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from tinygptv.data.pictures.pixels import open_picture
from tinygptv.definitions.scorer import OpenClipScorer
from tinygptv.errors import SetupError
from tinygptv.judging.embedding import Shortened
from tinygptv.judging.judge import Judge
from tinygptv.store.locations import local_path


class OpenClipJudge(Judge):
    """`clip`, the cosine of picture and caption, and an embedding of the picture."""

    def __init__(self, scorer: OpenClipScorer) -> None:
        weights = str(local_path(scorer.weights))
        try:
            library = import_module("open_clip")
        except ImportError as error:
            raise SetupError(
                f"scorer '{scorer.about}' needs the library open_clip ({error}); install it: pip install "
                "'tinygptv[open_clip]'"
            ) from error
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _, self._transform = library.create_model_and_transforms(scorer.model, pretrained=weights)
        self._model = model.to(self._device).eval()
        self._tokenizer = library.get_tokenizer(scorer.model)

    @torch.inference_mode()
    def score(self, images: Sequence[bytes], captions: Sequence[str]) -> dict[str, Any]:
        """Columns of a scores table, one value per pair."""
        pixels = torch.stack(
            [self._transform(open_picture(image, f"picture {number}")) for number, image in enumerate(images)]
        ).to(self._device)
        pictures = torch.nn.functional.normalize(self._model.encode_image(pixels), dim=1)
        texts = torch.nn.functional.normalize(
            self._model.encode_text(self._tokenizer(list(captions)).to(self._device)), dim=1
        )
        shortened = Shortened(pictures.shape[1], self._device)
        return {"clip": (pictures * texts).sum(dim=1).cpu().numpy(), "embedding": shortened(pictures)}
