"""Phase 2: the Q-Former on the frozen vision encoder learns BLIP-2's objectives, and to separate objects.

Contrast (ITC), matching (ITM) and generation (ITG) as in LAVIS, in one process: negatives are the step's own batch plus
one hand-made negative per text, wrong in a single attribute, position or number. The texts name positions, numbers and
boxes. A fourth objective is ours, a linear probe that predicts the nine grid cells from the first nine queries: with
the other three alone, the query outputs do not encode positions.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, PreTrainedTokenizerFast

from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.vision_encoders.eva_vit import EvaVit
from tinygptv.shapes.bootstrap.corpus import (
    IGNORE,
    ObjectHead,
    batch_of_scenes,
    cell_targets,
    pad,
    pixel_values,
    rng_of,
)
from tinygptv.shapes.bootstrap.loop import Step
from tinygptv.shapes.bootstrap.settings import Settings
from tinygptv.shapes.bootstrap.texts import generation_text, matching_pair
from tinygptv.shapes.scenes import GRID, Scene

_SMOOTHING = 0.1


class QFormerPretraining(nn.Module):
    """The image-text Q-Former on a frozen encoder at both picture sizes, with an auxiliary head for the grid cells."""

    def __init__(self, settings: Settings, backbones: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        config = Blip2QFormerConfig(
            vocab_size=settings.vocabulary + 2,
            hidden_size=settings.width,
            num_hidden_layers=settings.qformer_layers,
            num_attention_heads=settings.heads,
            intermediate_size=4 * settings.width,
            max_position_embeddings=128,
            encoder_hidden_size=settings.width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.qformer = ImageTextQFormer(config, settings.query_tokens, settings.contrast_width)
        self.cells = ObjectHead(settings.width)
        # In a plain dict, so that the frozen encoders are not registered as submodules.
        self._encoders = {
            side: EvaVit.from_pretrained(backbones, side).eval().requires_grad_(False) for side in settings.image_sizes
        }

    def step(self, number: int) -> Step:
        """The loss of one step on new scenes and texts."""
        side = self.settings.image_sizes[number % 2]
        return self.measure(batch_of_scenes("pretrain", number, self.settings.qformer.batch), number, side)

    def measure(self, scenes: list[Scene], number: int, side: int) -> Step:
        """The sum of the four losses, and the accuracies of the probe."""
        rng = rng_of("qformer", number)
        pairs = [matching_pair(picture, rng) for picture in scenes]
        written = [generation_text(picture, rng) for picture in scenes]
        features = self.features(scenes, side)
        queries = self.qformer(features)
        cells, figures = self.cells(queries[:, : GRID * GRID], cell_targets(scenes))
        texts = self._tokens([right for right, _ in pairs] + [wrong for _, wrong in pairs], self.qformer.cls_id)
        itc, similarity = self._contrast(queries, *texts)
        itm = self._matching(features, *texts, similarity)
        itg = self._generation(features, written)
        figures |= {"itc": itc.item(), "itm": itm.item(), "itg": itg.item(), "cells": cells.item()}
        return Step(itc + itm + itg + cells, figures)

    def features(self, scenes: list[Scene], side: int) -> Tensor:
        """Image features of the frozen encoder at a picture size."""
        with torch.no_grad():
            return self._encoders[side](pixel_values(scenes, side))

    def _contrast(self, queries: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ITC over the batch; the hand-made wrong texts (second half of the rows) are additional negatives."""
        texts = self.qformer.text_embedding(input_ids, mask)
        similarity = self.qformer.similarity(self.qformer.image_embedding(queries), texts) / self.qformer.temperature
        batch = len(queries)
        own = torch.arange(batch)
        to_text = nn.functional.cross_entropy(similarity, own, label_smoothing=_SMOOTHING)
        to_image = nn.functional.cross_entropy(similarity[:, :batch].T, own, label_smoothing=_SMOOTHING)
        return (to_text + to_image) / 2, similarity[:, :batch].detach()

    def _matching(self, features: Tensor, input_ids: Tensor, mask: Tensor, similarity: Tensor) -> Tensor:
        """ITM over three groups: matching pairs, the hand-made wrong text, and a hard negative picture or text."""
        batch = len(features)
        confusable = similarity.masked_fill(torch.eye(batch, dtype=torch.bool), -10_000)
        other_image = torch.multinomial(confusable.T.softmax(dim=1), 1).squeeze(1)
        other_text = torch.multinomial(confusable.softmax(dim=1), 1).squeeze(1)
        own = torch.arange(batch)
        by_image = own % 2 == 0
        images = torch.cat([own, own, torch.where(by_image, other_image, own)])
        texts = torch.cat([own, own + batch, torch.where(by_image, own, other_text)])
        logits = self.qformer.matching_logits(features[images], input_ids[texts], mask[texts])
        labels = (torch.arange(3 * batch) < batch).long()
        # One pair in three matches; it weighs as much as the two that do not.
        return nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 2.0]))

    def _generation(self, features: Tensor, texts: list[str]) -> Tensor:
        """ITG: generate the text from the queries."""
        input_ids, mask = self._tokens(texts, self.qformer.dec_id)
        logits = self.qformer.generation_logits(features, input_ids, mask)
        targets = input_ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORE)
        return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORE)

    def _tokens(self, texts: list[str], first: int) -> tuple[Tensor, Tensor]:
        rows = [[first, *self.tokenizer.encode(text, add_special_tokens=False), 0] for text in texts]
        return pad(rows, 0), pad([[1] * len(row) for row in rows], 0)
