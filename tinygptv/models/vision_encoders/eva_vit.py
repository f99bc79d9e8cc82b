"""pixel_values -> image_features: EVA-CLIP's vision transformer, ViT-g/14 at full size."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from tinygptv.definitions.vision_encoders import eva_vit
from tinygptv.errors import ShapeError
from tinygptv.models.blip2 import OUTPUT_NORM, output_norm_file
from tinygptv.models.kinds import VisionEncoderKind, WeightFile
from tinygptv.models.stored import Table, derived, load_strictly
from tinygptv.models.translation import OWN_LAYOUT, Translation, drop_unused, prefixed, rename

POSITIONS = "embeddings.position_embedding"
_LAVIS = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
]
_UNUSED = (r"(norm|fc_norm|head)\.|mask_token$", "a head that BLIP-2 does not use")
_PREFIX = "vision_encoder.model."


def vision_config(**fields: Any) -> Blip2VisionConfig:
    """A vision configuration; without fields the published ViT-g/14 of 39 blocks.

    The library initialises weights at 1e-10, with which an untrained encoder returns the same features for every
    picture; ours starts like any other transformer.
    """
    return Blip2VisionConfig(**{"initializer_range": 0.02} | fields)


class EvaVit(nn.Module):
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
    def from_pretrained(cls, folder: Path, image_size: int | None = None) -> "EvaVit":
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


class EvaVitKind(VisionEncoderKind[eva_vit.EvaVit]):
    """EVA-CLIP's ViT, from `eva_vit_g.pth`, from a whole model that holds one, or from our own layout."""

    reference_rules = ((r"^ln_vision\.", OUTPUT_NORM),)

    def build(self, image_size: int) -> EvaVit:
        """The encoder for pictures of `image_size` px, freshly initialised."""
        definition = self.definition
        config = vision_config(
            hidden_size=definition.width,
            num_hidden_layers=definition.depth,
            num_attention_heads=definition.heads,
            intermediate_size=definition.mlp_width,
            patch_size=definition.patch_size,
            image_size=image_size,
        )
        return EvaVit(config)

    def read(self, table: Table) -> Translation:
        """LAVIS's `eva_vit_g.pth`, a whole model that holds one, Hugging Face's BLIP-2, or the encoder's own layout."""
        for prefix, layout in (("vision_model.", "BLIP-2 of Hugging Face"), ("visual_encoder.", "a model of LAVIS")):
            if any(name.startswith(prefix) for name in table):
                kept = {n.removeprefix(prefix): s for n, s in table.items() if n.startswith(prefix)}
                others = {name: "no part of the vision encoder" for name in table if not name.startswith(prefix)}
                inner = _lavis(kept, self.definition.depth)
                left_out = others | {f"{prefix}{name}": reason for name, reason in inner.left_out.items()}
                return Translation(layout, prefixed(_PREFIX, inner.tensors), left_out)
        if "cls_token" not in table:
            return Translation(OWN_LAYOUT, prefixed(_PREFIX, table), {})
        inner = _lavis(table, self.definition.depth)
        return Translation(inner.layout, prefixed(_PREFIX, inner.tensors), inner.left_out)

    def files(self) -> list[WeightFile]:
        """The encoder's file and, where it is named, the BLIP-2 that holds its output norm."""
        output_norm = self.definition.output_norm
        return [*super().files(), *([(output_norm, output_norm_file)] if output_norm is not None else [])]

    def fit(self, table: Table, image_size: int) -> None:
        """Interpolate the position table."""
        name, grid = f"{_PREFIX}{POSITIONS}", image_size // self.definition.patch_size
        if positions := table.get(name):
            table[name] = derived(partial(resize_positions, grid=grid), [positions])

    def initializations(self, output_norm_is_read: bool) -> dict[re.Pattern[str], str]:
        """The output norm, which lies in BLIP-2's file; MiniGPT-v2, which has no Q-Former, need not have loaded it."""
        if output_norm_is_read or self.definition.output_norm is not None:
            return {}
        return {re.compile(re.escape(OUTPUT_NORM)): "norms as the identity"}


def _lavis(table: Table, depth: int) -> Translation:
    kept, left_out = drop_unused(table, [_UNUSED])
    for name in [name for name in kept if _block_number(name) >= depth]:
        del kept[name]
        left_out[name] = f"a block beyond the {depth} in use"
    for name in [name for name in kept if name.endswith(".attn.q_bias")]:
        # Keys have no bias in EVA; the library's layout has a place for one.
        parts = [kept.pop(name), kept.pop(name.replace(".q_bias", ".v_bias"))]
        kept[name.replace(".q_bias", ".qkv.bias")] = derived(_with_key_bias, parts)
    return Translation("EVA-CLIP as LAVIS names it", rename(kept, _LAVIS), left_out)


def _with_key_bias(query_bias: Tensor, value_bias: Tensor) -> Tensor:
    return torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])


def _block_number(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1
