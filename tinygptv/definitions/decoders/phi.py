"""Phi-1.5 and Phi-2: attention and feed-forward side by side on one normalised input."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from tinygptv.definitions.parts import Decoder


class Phi(Decoder):
    """Phi-1.5's and Phi-2's decoder: attention and feed-forward side by side on one normalised input."""

    lora_targets = ("query_key_value", "dense")
    has_fused_qkv = True
    stock_has_qk_norm = True
    published_prefixes = ("model.layers.", "transformer.h.")
    published_names = (  # of Microsoft's first files
        (r"^transformer\.embd\.wte\.", "model.embed_tokens."),
        (r"^transformer\.h\.", "model.layers."),
        (r"\.mixer\.Wqkv\.", ".self_attn.query_key_value."),
        (r"\.mixer\.out_proj\.", ".self_attn.dense."),
        (r"\.ln\.", ".input_layernorm."),
        (r"^lm_head\.input_layernorm\.", "model.final_layernorm."),
        (r"^lm_head\.linear\.", "lm_head."),
    )
    config_types = ("phi", "phi-msft")
    config_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "width": ("hidden_size", "n_embd"),
        "depth": ("num_hidden_layers", "n_layer"),
        "heads": ("num_attention_heads", "n_head"),
        "mlp_width": ("intermediate_size", "n_inner"),
        "vocabulary": ("vocab_size",),
        "max_positions": ("max_position_embeddings", "n_positions"),
        "rotary_fraction": ("partial_rotary_factor",),
    }
    known_sizes: ClassVar[Mapping[tuple[int, int], str]] = {(2048, 24): "Phi-1 or Phi-1.5", (2560, 32): "Phi-2"}

    architecture: Literal["phi"]
    rotary_fraction: float = Field(gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """As for every decoder; the rotary part of a head has moved and changed its unit over the years."""
        fields = super().read_config(config)
        if fields["rotary_fraction"] is None:
            fields["rotary_fraction"] = (config.get("rope_parameters") or {}).get("partial_rotary_factor")
        if fields["rotary_fraction"] is None and "rotary_dim" in config and fields["width"] and fields["heads"]:
            fields["rotary_fraction"] = config["rotary_dim"] * fields["heads"] / fields["width"]
        return fields
