"""The toy part's module."""

from torch import Tensor, nn

from tinygptv.definitions.connector_parts import toy
from tinygptv.models.kinds import ConnectorPartKind


class ToyProjection(nn.Linear):
    def forward(self, image_features: Tensor) -> Tensor:
        return nn.functional.gelu(super().forward(image_features))


class ToyKind(ConnectorPartKind[toy.Toy]):
    def build(self, width: int) -> ToyProjection:
        return ToyProjection(width, self.definition.width)
