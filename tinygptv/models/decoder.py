"""What all decoders share: attention with TinyGPT-V's QK-norm, its norm on the attention branch, and layers of our own.

H heads, of which keys and values may have fewer; W the width of one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tinygptv.definitions.parts import Decoder
from tinygptv.models.head import Head

QK_NORM_EPS = 1e-5
ATTENTION_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Self-attention between its linear maps, which are the subclass's: norms, rotary embedding, product."""

    def __init__(self, definition: Decoder, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_width = definition.width // definition.heads
        self.q_layernorm = self._norm(definition)
        self.k_layernorm = self._norm(definition)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        cache: DynamicCache | None,
    ) -> Tensor:
        """(B, H, T, W) each -> (B, T, H * W). The mask is one of `masks`; None is causal.

        Queries and keys are normalised per head before the rotary embedding, if the definition asks for it.
        """
        query, key = _rotate(self.q_layernorm(query), self.k_layernorm(key), rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        attended = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and query.shape[2] > 1,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended.transpose(1, 2).flatten(start_dim=2)

    def _norm(self, definition: Decoder) -> nn.Module:
        return nn.LayerNorm(self.head_width, eps=QK_NORM_EPS) if definition.qk_norm else nn.Identity()


def attention_norm(definition: Decoder) -> nn.Module:
    """TinyGPT-V's RMSNorm on the attention branch, or nothing: (B, T, D) -> (B, T, D)."""
    return nn.RMSNorm(definition.width, eps=ATTENTION_NORM_EPS) if definition.attention_norm else nn.Identity()


class OwnLayers(PreTrainedModel):
    """A mixin for a causal language model of transformers, which keeps its rotary tables and cache: `layer` builds the
    layer of a number, and the head computes the loss (see `head`)."""

    model: Any

    def __init__(self, config: PretrainedConfig, layer: Callable[[int], nn.Module]) -> None:
        depth = config.num_hidden_layers
        config.num_hidden_layers = 0  # so that no stock layer is built only to be thrown away
        super().__init__(config)
        config.num_hidden_layers = depth
        self.model.layers = nn.ModuleList(layer(number) for number in range(depth))
        self.model.layers.apply(self._init_weights)
        self.lm_head = Head.from_linear(self.lm_head)

    def hidden_states(
        self, inputs_embeds: Tensor, mask: Tensor | None, image_positions: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The decoder without its head: (B, T, D) -> (B, T, D). The mask is one of `masks`.

        Every layer gets `image_positions` (B, T), true for the tokens of an image, and may ignore it.
        """
        if image_positions is not None:
            options["image_positions"] = image_positions
        return self.model(inputs_embeds=inputs_embeds, attention_mask=mask, **options).last_hidden_state


def _rotate(query: Tensor, key: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # As many features of a head are rotated as the tables are wide: all of them, or a part.
    turned = rotary[0].shape[-1]
    query_turned, key_turned = apply_rotary_pos_emb(query[..., :turned], key[..., :turned], *rotary)
    return (
        torch.cat((query_turned, query[..., turned:]), dim=-1),
        torch.cat((key_turned, key[..., turned:]), dim=-1),
    )
