"""The Phi decoder computes what the library's does, and has the norms that TinyGPT-V adds."""

import pytest
import torch
from transformers import PhiConfig, PhiForCausalLM

from tests.models.decoders.families import PHI, assert_same_logits
from tinygptv.definitions.decoders.phi import Phi
from tinygptv.models.decoders.phi import PhiKind, PhiLanguageModel, phi_config
from tinygptv.models.stored import in_memory, read_all


def same_weights(definition: Phi) -> tuple[PhiForCausalLM, PhiLanguageModel]:
    """The library's Phi with random weights and biases, and ours with the same."""
    torch.manual_seed(0)
    stock = PhiForCausalLM(PhiConfig(**phi_config(definition).to_dict() | {"hidden_act": "gelu_new"})).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = PhiLanguageModel(definition).eval()
    stored = {name: in_memory(name, tensor) for name, tensor in stock.state_dict().items()}
    tensors = read_all(PhiKind(definition).read(stored).tensors)
    ours.load_state_dict({name.removeprefix("language_model."): tensor for name, tensor in tensors.items()})
    return stock, ours


@pytest.mark.parametrize("qk_norm", [False, True])
def test_with_the_same_weights_it_is_the_librarys_phi(qk_norm: bool) -> None:
    stock, ours = same_weights(PHI.model_copy(update={"qk_norm": qk_norm}))
    assert_same_logits(ours, stock)


def test_the_attention_norm_sits_on_the_attention_branch_alone() -> None:
    definition = PHI.model_copy(update={"attention_norm": True, "depth": 1})
    torch.manual_seed(0)
    ours = PhiLanguageModel(definition).eval()
    layer, states = ours.model.layers[0], torch.randn(1, 4, 32)
    rotary = ours.model.rotary_emb(states, torch.arange(4)[None])
    with torch.no_grad():
        normed = layer.input_layernorm(states)
        attended = layer.self_attn(normed, None, rotary, None)
        scaled = attended / (attended.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = states + scaled + layer.mlp(normed)
        torch.testing.assert_close(layer(states, None, rotary), expected)
