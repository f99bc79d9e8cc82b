"""image_features -> image_embeds: the connector parts of a recipe, in order."""

from collections.abc import Sequence

from torch import nn
from transformers import Blip2QFormerConfig

from tinygptv.definitions.recipe import ConnectorPart, QFormer
from tinygptv.models import qformer


def build_connector(parts: Sequence[ConnectorPart], features_width: int) -> nn.Sequential:
    """(I, N, `features_width`) -> (I, image tokens, width of the last part). Nothing stands between two parts."""
    modules: list[nn.Module] = []
    width = features_width
    for part in parts:
        match part:
            case QFormer():
                modules.append(qformer.QFormer(_qformer_config(part, width), part.queries))
            case _:
                modules.append(nn.Linear(width, part.width))
        width = part.width
    return nn.Sequential(*modules)


def num_image_tokens(parts: Sequence[ConnectorPart], features: int) -> int:
    """Tokens the language model gets per image when the vision encoder gives `features` of them."""
    queries = [part.queries for part in parts if isinstance(part, QFormer)]
    return queries[-1] if queries else features


def _qformer_config(part: QFormer, encoder_width: int) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        hidden_size=part.width,
        num_hidden_layers=part.depth,
        num_attention_heads=part.heads,
        intermediate_size=part.mlp_width,
        cross_attention_frequency=part.cross_attention_every,
        encoder_hidden_size=encoder_width,
    )
