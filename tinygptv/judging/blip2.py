"""Scores of BLIP-2's first stage, on GPU or CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.pictures.pixels import decode
from tinygptv.definitions.scorer import Blip2Scorer
from tinygptv.errors import DefinitionError
from tinygptv.judging.embedding import RandomProjection
from tinygptv.judging.judge import Judge
from tinygptv.judging.texts import Texts
from tinygptv.models.image_text import load_image_text
from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.writing import Writing
from tinygptv.store.locations import local_path


class Blip2Judge(Judge):
    """`itc`, `itm`, an embedding and, if the definition asks for it, a generated caption with the same two scores."""

    def __init__(self, scorer: Blip2Scorer) -> None:
        self._scorer = scorer
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_image_text(scorer.vision_encoder, scorer.qformer, scorer.text_side, scorer.image_size)
        self._model = model.to(self._device)
        config = model.qformer.config
        longest = max(scorer.max_text_tokens, scorer.recaption.max_tokens + 1 if scorer.recaption else 0)
        if longest > config.max_position_embeddings:
            raise DefinitionError(
                f"scorer '{scorer.about}': texts of {longest} tokens, but its weights have positions for "
                f"{config.max_position_embeddings}; lower max_text_tokens and recaption.max_tokens"
            )
        tokenizer = load_tokenizer(local_path(scorer.tokenizer))
        self._texts = Texts(tokenizer, config.vocab_size, scorer.max_text_tokens, plain_text=scorer.plain_text)
        width = scorer.qformer.queries * model.qformer.vision_projection.out_features
        self._project = RandomProjection(width, self._device)

    @torch.inference_mode()
    def score(self, images: Sequence[bytes], captions: Sequence[str]) -> dict[str, Any]:
        """Columns of a scores table, one value per pair."""
        side, preprocessing = self._scorer.image_size, self._scorer.vision_encoder.preprocessing
        pixels = np.stack(
            [decode(image, side, f"picture {n}", preprocessing=preprocessing) for n, image in enumerate(images)]
        )
        features, found = self._model.look(normalise(torch.from_numpy(pixels).to(self._device), preprocessing))
        itc, itm = self._fit(features, found, captions)
        columns = {"itc": itc, "itm": itm, "embedding": self._project(found.flatten(1))}
        if self._scorer.recaption is not None:
            texts = _write_captions(self._model.qformer, features, self._texts, self._scorer.recaption.max_tokens)
            itc, itm = self._fit(features, found, texts)
            columns |= {"recaption": texts, "recaption_itc": itc, "recaption_itm": itm}
        return columns

    def _fit(self, features: Tensor, found: Tensor, captions: Sequence[str]) -> tuple[Any, Any]:
        input_ids, mask = (tensor.to(self._device) for tensor in self._texts.to_compare(captions))
        itc = self._model.contrast(found, input_ids, mask)
        return itc.cpu().numpy(), self._model.matching(features, input_ids, mask).cpu().numpy()


def _write_captions(qformer: ImageTextQFormer, features: Tensor, texts: Texts, max_tokens: int) -> list[str]:
    """Generate captions greedily: CapFilt's captioner (BLIP, arXiv 2201.12086), which samples instead.

    Stops when all captions have ended or have `max_tokens`. (B, N, D) -> B captions.
    """
    writing = Writing(qformer, features)
    words = [torch.full((len(features),), texts.dec_id, device=features.device)]
    ended = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    while len(words) <= max_tokens and not ended.all():
        logits = writing.logits(words[-1])
        logits[:, [texts.cls_id, texts.dec_id]] = -torch.inf
        words.append(logits.argmax(dim=-1).masked_fill(ended, texts.end_id))
        ended |= words[-1] == texts.end_id
    return texts.written(torch.stack(words, dim=1))
