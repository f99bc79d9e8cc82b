"""Published weight files → the model that judges pairs of picture and text. What is not in its definition, the size of
the vocabulary, say, is told by the tensors."""

from functools import partial
from logging import getLogger
from typing import Literal

import torch
from accelerate import init_empty_weights

from tinygptv.definitions.base import Location
from tinygptv.definitions.model import QFormer, VisionEncoder
from tinygptv.models.connectors import qformer_config
from tinygptv.models.image_text import ImageTextModel
from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.vision import POSITIONS, build_vision_encoder, resize_positions
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.loading import check_places, fill, refuse_missing
from tinygptv.models.weights.published import image_text_file, output_norm_file, vision_file
from tinygptv.models.weights.stored import Table, derived, in_memory
from tinygptv.store.locations import local_path

logger = getLogger(__name__)

_POSITION_TABLE = f"vision_encoder.model.{POSITIONS}"


def load_image_text(
    vision: VisionEncoder, qformer: QFormer, text_side: Location | None, image_size: int
) -> ImageTextModel:
    """The frozen model for pictures of `image_size` px, in float32; `text_side` if it lies in a file of its own.

    Raises HandoffError, naming file and tensor, for anything missing, left over or of another shape.
    """
    places = [qformer.weights, *([text_side] if text_side else [])]
    table = vision_file(open_weights(local_path(vision.weights)), vision.depth).tensors
    if vision.output_norm is not None:
        table |= output_norm_file(open_weights(local_path(vision.output_norm))).tensors
    for place in places:
        translation = image_text_file(open_weights(local_path(place)), place)
        logger.info("weights: %d tensors from %s (%s)", len(translation.tensors), place, translation.layout)
        table |= translation.tensors
    resize = partial(resize_positions, grid=image_size // vision.patch_size)
    if positions := table.get(_POSITION_TABLE):
        table[_POSITION_TABLE] = derived(resize, [positions])
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
            build_vision_encoder(vision, image_size),
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
