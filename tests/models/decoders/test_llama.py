"""The Llama decoder computes what the library's does, and has the norms that TinyGPT-V adds."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tests.models.decoders.families import LLAMA, assert_same_logits
from tinygptv.definitions.decoders.llama import Llama
from tinygptv.models.decoders.llama import LlamaLanguageModel, llama_config


def same_weights(definition: Llama) -> tuple[LlamaForCausalLM, LlamaLanguageModel]:
    """The library's Llama with random weights, and ours with the same under the same names."""
    torch.manual_seed(0)
    stock = LlamaForCausalLM(llama_config(definition)).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = LlamaLanguageModel(definition).eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_with_the_same_weights_it_is_the_librarys_llama(key_value_heads: int) -> None:
    stock, ours = same_weights(LLAMA.model_copy(update={"key_value_heads": key_value_heads}))
    assert_same_logits(ours, stock)


def normed(states: Tensor) -> Tensor:
    """What a fresh LayerNorm does over the last dimension."""
    centred = states - states.mean(-1, keepdim=True)
    return centred / (states.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_the_added_norms_sit_before_the_rotary_embedding_and_on_the_attention_branch() -> None:
    torch.manual_seed(0)
    ours = LlamaLanguageModel(LLAMA.model_copy(update={"qk_norm": True, "attention_norm": True})).eval()
    layer, states = ours.model.layers[0], torch.randn(1, 2, 32)
    # Both tokens at position 0, where the rotary embedding is the identity.
    rotary = ours.model.rotary_emb(states, torch.zeros(1, 2, dtype=torch.long))
    with torch.no_grad():
        inside = layer.input_layernorm(states)
        query = normed(layer.self_attn.q_proj(inside).view(1, 2, 4, 8)).transpose(1, 2)
        key = normed(layer.self_attn.k_proj(inside).view(1, 2, 2, 8)).transpose(1, 2).repeat_interleave(2, dim=1)
        value = layer.self_attn.v_proj(inside).view(1, 2, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1)
        scores = query @ key.transpose(-1, -2) / 8**0.5
        weights = scores.masked_fill(torch.ones(2, 2).triu(1).bool(), -torch.inf).softmax(-1)
        attended = layer.self_attn.o_proj((weights @ value).transpose(1, 2).reshape(1, 2, 32))
        middle = states + attended / (attended.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = middle + layer.mlp(layer.post_attention_layernorm(middle))
        torch.testing.assert_close(layer(states, None, rotary), expected)
