"""The toy encoder's module."""

from torch import Tensor, nn

from tinygptv.definitions.vision_encoders import toy
from tinygptv.models.kinds import VisionEncoderKind


class ToyEncoder(nn.Module):
    def __init__(self, definition: toy.Toy) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, definition.width, definition.patch_size, definition.patch_size)
        self.norm = nn.LayerNorm(definition.width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.norm(self.patches(pixel_values).flatten(2).transpose(1, 2))


class ToyKind(VisionEncoderKind[toy.Toy]):
    def build(self, image_size: int) -> ToyEncoder:
        return ToyEncoder(self.definition)
