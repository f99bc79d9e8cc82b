"""pixel_values and texts -> how well they match: BLIP-2's first stage, frozen, as a judge of pairs.

It is read from published weight files. What its definition does not say, such as the size of the
vocabulary, is taken from the shapes of the tensors.
"""

from logging import getLogger
from typing import Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from tinygptv.definitions.base import Location
from tinygptv.definitions.connector_parts.qformer import QFormer
from tinygptv.definitions.parts import VisionEncoder
from tinygptv.models.blip2 import image_text_file
from tinygptv.models.connector_parts.qformer import qformer_config
from tinygptv.models.kinds import vision_encoder_kind
from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.stored import Table, in_memory
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.loading import check_places, fill, refuse_missing
from tinygptv.store.locations import local_path

logger = getLogger(__name__)


class ImageTextModel(nn.Module):
    """The vision encoder and the image-text Q-Former on top of it; both in eval mode, without gradients."""

    def __init__(self, vision_encoder: nn.Module, qformer: ImageTextQFormer) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.qformer = qformer
        self.eval().requires_grad_(False)

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> image features (B, N, D) and what each query found, as unit vectors (B, Q, W)."""
        features = self.vision_encoder(pixel_values)
        return features, self.qformer.image_embedding(self.qformer(features))

    def contrast(self, found: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """ITC: row b's text with row b's picture, the cosine of its best query: (B, Q, W), (B, T) -> (B,)."""
        texts = self.qformer.text_embedding(input_ids, attention_mask)
        return (found @ texts[:, :, None]).amax(dim=(1, 2))

    def matching(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """ITM: the probability that row b's text belongs to row b's picture: (B, N, D), (B, T) -> (B,)."""
        return self.qformer.matching_logits(features, input_ids, attention_mask).softmax(dim=1)[:, 1]


def load_image_text(
    vision: VisionEncoder, qformer: QFormer, text_side: Location | None, image_size: int
) -> ImageTextModel:
    """The frozen model for pictures of `image_size` px, in float32; `text_side` if it lies in a file of its own.

    Raises HandoffError, naming file and tensor, for anything missing, left over or of another shape.
    """
    places = [qformer.weights, *([text_side] if text_side else [])]
    kind = vision_encoder_kind(vision)
    table: Table = {}
    for location, read in kind.files():
        table |= read(open_weights(local_path(location))).tensors
    for place in places:
        translation = image_text_file(open_weights(local_path(place)), place)
        logger.info("weights: %d tensors from %s (%s)", len(translation.tensors), place, translation.layout)
        table |= translation.tensors
    kind.fit(table, image_size)
    # Only training divides by it, and Hugging Face leaves it out.
    table.setdefault("qformer.temperature", in_memory("temperature", torch.tensor(0.07)))
    model = _empty(vision, qformer, table, image_size)
    where, parameters = ", ".join(dict.fromkeys([vision.weights, *places])), dict(model.named_parameters())
    check_places(table, where, parameters)
    refuse_missing(parameters, table, [where])
    fill(model, table, torch.float32)
    return model.eval().requires_grad_(False)


def _empty(vision: VisionEncoder, qformer: QFormer, table: Table, image_size: int) -> ImageTextModel:
    """The model without memory for its parameters, with a text side of the sizes that `table` has."""
    sizes = {
        "vocab_size": "embeddings.word_embeddings.weight",
        "max_position_embeddings": "embeddings.position_embeddings.weight",
    }
    text = {field: table[name].shape[0] for field, part in sizes.items() if (name := f"qformer.{part}") in table}
    contrast = table.get("qformer.vision_projection.bias")
    with init_empty_weights(include_buffers=False):
        return ImageTextModel(
            vision_encoder_kind(vision).build(image_size),
            ImageTextQFormer(
                qformer_config(qformer, vision.width, **text),
                qformer.queries,
                contrast.shape[0] if contrast else 256,
                _head(table),
            ),
        )


def _head(table: Table) -> Literal["linear", "bert"] | None:
    if "qformer.itg_head.weight" in table:
        return "linear"
    return "bert" if "qformer.itg_head.words.weight" in table else None
