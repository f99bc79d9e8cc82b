"""Phi-2's decoder with TinyGPT-V's norms: transformers' own model around layers of ours.

Queries, keys and values come from one linear map whose output is ordered [heads, 3, head width]. That is the layout the
published model was trained in: adapters on it have exactly the published parameter count, and one product does the
work of three. Stock weights are fused into it exactly (see weights.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PhiConfig, PhiForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.phi.modeling_phi import PhiMLP, apply_rotary_pos_emb

from tinygptv.definitions.recipe import Phi

RMS_NORM_EPS = 1e-6


def phi_config(definition: Phi) -> PhiConfig:
    """The library's configuration; every value is given, as its defaults are those of Phi-1."""
    return PhiConfig(
        vocab_size=definition.vocabulary,
        hidden_size=definition.width,
        intermediate_size=definition.mlp_width,
        num_hidden_layers=definition.depth,
        num_attention_heads=definition.heads,
        max_position_embeddings=definition.max_positions,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": definition.rotary_fraction,
        },
        resid_pdrop=definition.dropout,
        embd_pdrop=0.0,
        attention_dropout=0.0,
        qk_layernorm=definition.qk_norm,
        hidden_act="gelu_pytorch_tanh",  # the same function as Phi's gelu_new, in one kernel
        layer_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,  # asked for in generation alone
    )


class FusedAttention(nn.Module):
    """Causal self-attention; queries and keys are normalised per head, before the rotary embedding, if asked for."""

    def __init__(self, config: PhiConfig, layer: int, rotary_width: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // self.heads
        self.rotary_width = rotary_width
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        norms = config.qk_layernorm
        self.q_layernorm = nn.LayerNorm(self.head_width, eps=config.layer_norm_eps) if norms else nn.Identity()
        self.k_layernorm = nn.LayerNorm(self.head_width, eps=config.layer_norm_eps) if norms else nn.Identity()

    def forward(
        self, states: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor], cache: DynamicCache | None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). Without a mask attention is causal; a mask (B, 1, T, past + T) is true where seen."""
        batch, length, width = states.shape
        fused = self.query_key_value(states).view(batch, length, self.heads, 3, self.head_width)
        query, key, value = fused.permute(3, 0, 2, 1, 4)
        query, key = self._rotate(self.q_layernorm(query), self.k_layernorm(key), rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None and length > 1
        )
        return self.dense(attended.transpose(1, 2).reshape(batch, length, width))

    def _rotate(self, query: Tensor, key: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        turned = self.rotary_width
        query_turned, key_turned = apply_rotary_pos_emb(query[..., :turned], key[..., :turned], *rotary)
        return (
            torch.cat((query_turned, query[..., turned:]), dim=-1),
            torch.cat((key_turned, key[..., turned:]), dim=-1),
        )


class DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward side by side on one normalised input; only the attention branch is normed again.

    h = input_layernorm(x);  x + dropout(attention_norm(attention(h))) + dropout(mlp(h))
    """

    def __init__(self, definition: Phi, config: PhiConfig, layer: int) -> None:
        super().__init__()
        width, norm = definition.width, definition.attention_norm
        self.input_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = FusedAttention(config, layer, int(width // definition.heads * definition.rotary_fraction))
        self.attention_norm = nn.RMSNorm(width, eps=RMS_NORM_EPS) if norm else nn.Identity()
        self.mlp = PhiMLP(config)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: DynamicCache | None = None,
        **unused: Any,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); called by the library's decoder, whose argument names these are."""
        normed = self.input_layernorm(hidden_states)
        attended = self.self_attn(normed, attention_mask, position_embeddings, past_key_values)
        branches = self.resid_dropout(self.attention_norm(attended)) + self.resid_dropout(self.mlp(normed))
        return hidden_states + branches


class PhiLanguageModel(PhiForCausalLM):
    """`PhiForCausalLM` with the layers above; masks, rotary tables and the cache stay the library's."""

    def __init__(self, definition: Phi) -> None:
        config = phi_config(definition)
        config.num_hidden_layers = 0  # so that no stock layer is built only to be thrown away
        super().__init__(config)
        config.num_hidden_layers = definition.depth
        layers = [DecoderLayer(definition, config, layer) for layer in range(definition.depth)]
        self.model.layers = nn.ModuleList(layers)
        self.model.layers.apply(self._init_weights)

    def hidden_states(self, inputs_embeds: Tensor, attention_mask: Tensor | None, **options: Any) -> Tensor:
        """The decoder without its head: (B, T, D) -> (B, T, D).

        A batch padded on the right needs no mask: causal attention never looks there.
        """
        if attention_mask is not None and not options and bool((attention_mask.diff(dim=1) <= 0).all()):
            attention_mask = None
        return self.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **options).last_hidden_state
