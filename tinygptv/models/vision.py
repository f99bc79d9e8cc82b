"""pixel_values -> image_features: the frozen vision encoder, EVA-CLIP ViT-g/14 at full size."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from tinygptv.definitions import model
from tinygptv.errors import HandoffError, ShapeError

POSITIONS = "embeddings.position_embedding"


def vision_config(**fields: Any) -> Blip2VisionConfig:
    """A vision configuration; without fields the published ViT-g/14 of 39 blocks.

    The library initialises weights at 1e-10, with which an untrained encoder returns the same features for every
    picture; ours starts like any other transformer.
    """
    return Blip2VisionConfig(**{"initializer_range": 0.02} | fields)


def build_vision_encoder(definition: model.VisionEncoder, image_size: int) -> "VisionEncoder":
    """The encoder that a recipe or scorer defines, for pictures of `image_size` px; without its weights."""
    config = vision_config(
        hidden_size=definition.width,
        num_hidden_layers=definition.depth,
        num_attention_heads=definition.heads,
        intermediate_size=definition.mlp_width,
        patch_size=definition.patch_size,
        image_size=image_size,
    )
    return VisionEncoder(config)


class VisionEncoder(nn.Module):
    """A ViT whose class token and patch tokens are all kept: (B, 3, H, W) -> (B, 1 + patches, D).

    The output norm has the epsilon of the original (1e-5), not that of the library (1e-6).
    """

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Blip2VisionModel(config)
        self.model.post_layernorm.eps = 1e-5

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features of pictures that have exactly the configured size; raises ShapeError for any other."""
        height, width = pixel_values.shape[-2:]
        if height != self.config.image_size or width != self.config.image_size:
            raise ShapeError(
                f"the vision encoder was built for {self.config.image_size} x {self.config.image_size} px but got "
                f"{height} x {width}; load it with image_size={height}, or resize the pictures"
            )
        return self.model(pixel_values).last_hidden_state

    @classmethod
    def from_pretrained(cls, folder: Path, image_size: int | None = None) -> "VisionEncoder":
        """Load `vision_encoder.json` and `.safetensors`, in float32, for pictures of `image_size` px (default: stored).

        The position table is interpolated once, here. Raises HandoffError if a tensor is missing or left over.
        """
        fields = json.loads((folder / "vision_encoder.json").read_text())
        config = vision_config(**fields)
        tensors = {name: tensor.float() for name, tensor in load_file(folder / "vision_encoder.safetensors").items()}
        if image_size is not None:
            config.image_size = image_size
            tensors[POSITIONS] = resize_positions(tensors[POSITIONS], image_size // fields["patch_size"])
        encoder = cls(config)
        load_strictly(encoder.model, tensors, folder / "vision_encoder.safetensors")
        return encoder


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Interpolate a position table (1, 1 + n * n, D) to (1, 1 + grid * grid, D): bicubic, the class row untouched.

    This is all that TinyGPT-V's fourth stage does to see 448 px; the paper calls it "relative position bias".
    """
    cls_row, patches = table[:, :1], table[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return table
    square = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = nn.functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([cls_row, square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1).to(table.dtype)], dim=1)


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load every tensor by name and shape; raises HandoffError that names the file and what does not fit."""
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    if missing or extra or shapes:
        raise HandoffError(
            f"{where} does not fit the configuration beside it: missing {missing[:3]}, left over {extra[:3]}, "
            f"of another shape {sorted(shapes)[:3]}; the two files must come from the same run"
        )
    module.load_state_dict(tensors)
