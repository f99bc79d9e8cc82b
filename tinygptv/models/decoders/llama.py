"""Llama's decoder, as TinyLlama, Llama-2 and Vicuna have it, with TinyGPT-V's norms where a recipe asks for them.

No code of the paper's TinyLlama variant was published. Here its norms stand where they stand in Phi: per head on
queries and keys before the rotary embedding, and on the attention branch before the residual sum.
"""

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tinygptv.definitions.decoders.llama import Llama
from tinygptv.models.decoder import Attention, OwnLayers, attention_norm
from tinygptv.models.kinds import DecoderKind


def llama_config(definition: Llama) -> LlamaConfig:
    """The library's configuration."""
    return LlamaConfig(
        vocab_size=definition.vocabulary,
        hidden_size=definition.width,
        intermediate_size=definition.mlp_width,
        num_hidden_layers=definition.depth,
        num_attention_heads=definition.heads,
        num_key_value_heads=definition.key_value_heads,
        max_position_embeddings=definition.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": definition.rope_theta},
        rms_norm_eps=definition.rms_norm_eps,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,  # asked for in generation alone
    )


class LlamaAttention(Attention):
    """Self-attention with three maps in front and `o_proj` behind, none with a bias."""

    def __init__(self, definition: Llama, layer: int) -> None:
        super().__init__(definition, layer)
        shared = definition.key_value_heads * self.head_width
        self.q_proj = nn.Linear(definition.width, definition.width, bias=False)
        self.k_proj = nn.Linear(definition.width, shared, bias=False)
        self.v_proj = nn.Linear(definition.width, shared, bias=False)
        self.o_proj = nn.Linear(definition.width, definition.width, bias=False)

    def forward(
        self, states: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor], cache: DynamicCache | None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); see `attend`."""
        query, key, value = (
            project(states).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(self.attend(query, key, value, mask, rotary, cache))


class LlamaLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward, each on a normalised input; the attention branch is normed again.

    y = x + attention_norm(attention(input_layernorm(x)));  y + mlp(post_attention_layernorm(y))
    """

    def __init__(self, definition: Llama, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(definition.width, eps=definition.rms_norm_eps)
        self.self_attn = LlamaAttention(definition, layer)
        self.attention_norm = attention_norm(definition)
        self.post_attention_layernorm = LlamaRMSNorm(definition.width, eps=definition.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        cache: DynamicCache | None = None,
        **unused: Any,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); called by the library's decoder, whose argument names these are."""
        normed = self.input_layernorm(hidden_states)
        attended = self.self_attn(normed, attention_mask, position_embeddings, cache)
        hidden_states = hidden_states + self.attention_norm(attended)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LlamaLanguageModel(OwnLayers, LlamaForCausalLM):
    """`LlamaForCausalLM` with the layers above."""

    def __init__(self, definition: Llama) -> None:
        config = llama_config(definition)
        super().__init__(config, lambda layer: LlamaLayer(definition, config, layer))


class LlamaKind(DecoderKind[Llama]):
    """Llama, whose published names are ours."""

    stock_class = LlamaForCausalLM

    def build(self) -> LlamaLanguageModel:
        """The decoder with our layers, freshly initialised."""
        return LlamaLanguageModel(self.definition)

    def stock_config(self) -> LlamaConfig:
        """transformers' configuration of it."""
        return llama_config(self.definition)
