"""Phi's decoder, of versions 1.5 and 2, with TinyGPT-V's norms.

Queries, keys and values come from one linear map whose output is ordered [heads, 3, head width]. That is the layout the
published model was trained in: adapters on it have exactly the published parameter count, and one product does the
work of three. Stock weights are fused into it exactly (see weights).
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, PhiConfig, PhiForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.phi.modeling_phi import PhiMLP

from tinygptv.definitions.decoders.phi import Phi
from tinygptv.models.decoder import Attention, OwnLayers, attention_norm
from tinygptv.models.fused_qkv import FUSED, interleave_heads
from tinygptv.models.kinds import DecoderKind
from tinygptv.models.stored import Table, derived
from tinygptv.models.translation import COMPUTED, Translation, drop_unused, prefixed, rename


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


class PhiAttention(Attention):
    """Self-attention with one fused map in front and `dense` behind."""

    def __init__(self, definition: Phi, layer: int) -> None:
        super().__init__(definition, layer)
        self.query_key_value = nn.Linear(definition.width, 3 * definition.width)
        self.dense = nn.Linear(definition.width, definition.width)

    def forward(
        self, states: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor], cache: DynamicCache | None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); see `attend`."""
        fused = self.query_key_value(states).unflatten(-1, (-1, 3, self.head_width))
        query, key, value = fused.permute(3, 0, 2, 1, 4)
        return self.dense(self.attend(query, key, value, mask, rotary, cache))


class PhiLayer(GradientCheckpointingLayer):
    """Attention and feed-forward side by side on one normalised input; only the attention branch is normed again.

    h = input_layernorm(x);  x + dropout(attention_norm(attention(h))) + dropout(mlp(h))
    """

    def __init__(self, definition: Phi, config: PhiConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(definition.width, eps=config.layer_norm_eps)
        self.self_attn = PhiAttention(definition, layer)
        self.attention_norm = attention_norm(definition)
        self.mlp = PhiMLP(config)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

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
        branches = self.resid_dropout(self.attention_norm(attended)) + self.resid_dropout(self.mlp(normed))
        return hidden_states + branches


class PhiLanguageModel(OwnLayers, PhiForCausalLM):
    """`PhiForCausalLM` with the layers above."""

    def __init__(self, definition: Phi) -> None:
        config = phi_config(definition)
        super().__init__(config, lambda layer: PhiLayer(definition, config, layer))


class PhiKind(DecoderKind[Phi]):
    """Phi in the stock layout, fused, or as Microsoft first published it."""

    stock_class = PhiForCausalLM

    def build(self) -> PhiLanguageModel:
        """The decoder with our layers, freshly initialised."""
        return PhiLanguageModel(self.definition)

    def stock_config(self) -> PhiConfig:
        """transformers' configuration of it."""
        return phi_config(self.definition)

    def read(self, table: Table) -> Translation:
        """As for every decoder; Microsoft's first files order their fused maps as [3, heads, head width]."""
        if not any(".mixer." in name for name in table):
            return super().read(table)
        kept, left_out = drop_unused(table, [COMPUTED])
        kept = rename(kept, self.definition.published_names)
        for name in [name for name in kept if FUSED in name]:
            kept[name] = derived(partial(interleave_heads, heads=self.definition.heads), [kept[name]])
        return Translation("Microsoft's first layout", prefixed("language_model.", kept), left_out)
