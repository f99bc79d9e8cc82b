"""image_features -> image_embeds: the connector parts of a recipe, in order."""

from collections.abc import Sequence

from torch import nn

from tinygptv.definitions.parts import ConnectorPart
from tinygptv.models.kinds import connector_part_kind


def build_connector(parts: Sequence[ConnectorPart], features_width: int) -> nn.Sequential:
    """(I, N, `features_width`) -> (I, image tokens, width of the last part). Nothing stands between two parts."""
    modules: list[nn.Module] = []
    width = features_width
    for position, part in enumerate(parts):
        modules.append(connector_part_kind(part, position).build(width))
        width = part.output_width(width)
    return nn.Sequential(*modules)
