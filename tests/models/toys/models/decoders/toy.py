"""The toy decoder's layers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tinygptv.definitions.decoders import toy
from tinygptv.models.decoder import Attention, OwnLayers, attention_norm
from tinygptv.models.kinds import DecoderKind
from tinygptv.models.stored import Stock


class ToyAttention(Attention):
    def __init__(self, definition: toy.Toy, layer: int) -> None:
        super().__init__(definition, layer)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(definition.width, definition.width, bias=False))

    def forward(self, states: Tensor, mask: Tensor | None, rotary: Any, cache: DynamicCache | None) -> Tensor:
        split = (each(states).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for each in self._maps())
        return self.o_proj(self.attend(*split, mask, rotary, cache))

    def _maps(self) -> tuple[nn.Module, ...]:
        return self.q_proj, self.k_proj, self.v_proj


class ToyLayer(GradientCheckpointingLayer):
    def __init__(self, definition: toy.Toy, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(definition.width)
        self.self_attn = ToyAttention(definition, layer)
        self.attention_norm = attention_norm(definition)
        self.post_attention_layernorm = LlamaRMSNorm(definition.width)
        self.mlp, self.image_mlp = LlamaMLP(config), LlamaMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        image_positions: Tensor,
        cache: DynamicCache | None = None,
        **unused: Any,
    ) -> Tensor:
        normed = self.input_layernorm(hidden_states)
        attended = self.self_attn(normed, attention_mask, position_embeddings, cache)
        states = hidden_states + self.attention_norm(attended)
        normed = self.post_attention_layernorm(states)
        return states + torch.where(image_positions[..., None], self.image_mlp(normed), self.mlp(normed))


class ToyLanguageModel(OwnLayers, LlamaForCausalLM):
    def __init__(self, definition: toy.Toy, config: LlamaConfig) -> None:
        super().__init__(config, lambda layer: ToyLayer(definition, config, layer))


class ToyKind(DecoderKind[toy.Toy]):
    stock_class = LlamaForCausalLM

    def build(self) -> ToyLanguageModel:
        return ToyLanguageModel(self.definition, self.stock_config())

    def stock_config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.definition.vocabulary,
            hidden_size=self.definition.width,
            intermediate_size=self.definition.mlp_width,
            num_hidden_layers=self.definition.depth,
            num_attention_heads=self.definition.heads,
            max_position_embeddings=self.definition.max_positions,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )

    def initializations(self) -> dict[re.Pattern[str], str]:
        return {re.compile(r"\.image_mlp\."): "image experts at random"}

    def to_stock(self, tensors: Mapping[str, Tensor]) -> Stock:
        stock, others = super().to_stock({n: t for n, t in tensors.items() if ".image_mlp." not in n})
        return Stock(stock, others | {n: t for n, t in tensors.items() if ".image_mlp." in n})
