"""image_features -> image_embeds: the connector parts of a recipe, in order."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import Blip2QFormerConfig

from tinygptv.definitions import model
from tinygptv.errors import ShapeError
from tinygptv.models import qformer


class Neighbours(nn.Module):
    """Drops the class token and joins every `count` patches that follow each other in reading order.

    (I, 1 + N, D) -> (I, N // count, count * D). Groups lie in one row of the picture, they are not squares. Source:
    MiniGPT-v2 (arXiv 2310.09478), `encode_img`.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, image_features: Tensor) -> Tensor:
        """Raises ShapeError if patches would be left over."""
        images, tokens, width = image_features.shape
        if left_over := (tokens - 1) % self.count:
            raise ShapeError(
                f"cannot join {tokens - 1} patches by {self.count}: {left_over} would be left over; choose an "
                "image_size whose patch count divides by it"
            )
        return image_features[:, 1:].reshape(images, (tokens - 1) // self.count, self.count * width)


def build_connector(parts: Sequence[model.ConnectorPart], features_width: int) -> nn.Sequential:
    """(I, N, `features_width`) -> (I, image tokens, width of the last part). Nothing stands between two parts."""
    modules: list[nn.Module] = []
    width = features_width
    for part in parts:
        match part:
            case model.QFormer():
                modules.append(qformer.QFormer(qformer_config(part, width), part.queries))
            case model.Linear():
                modules.append(nn.Linear(width, part.width))
            case model.Neighbours():
                modules.append(Neighbours(part.count))
        width = part.output_width(width)
    return nn.Sequential(*modules)


def qformer_config(part: model.QFormer, encoder_width: int, **fields: Any) -> Blip2QFormerConfig:
    """The library's configuration of a Q-Former that reads features of `encoder_width`; `fields` are for its texts."""
    return Blip2QFormerConfig(
        hidden_size=part.width,
        num_hidden_layers=part.depth,
        num_attention_heads=part.heads,
        intermediate_size=part.mlp_width,
        cross_attention_frequency=part.cross_attention_every,
        encoder_hidden_size=encoder_width,
        **fields,
    )
