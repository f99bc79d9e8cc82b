import pytest
import torch
from transformers import PhiConfig, PhiForCausalLM

from tinygptv.definitions.recipe import Phi
from tinygptv.models.language.phi import PhiLanguageModel, phi_config
from tinygptv.models.weights.published import language_file
from tinygptv.models.weights.stored import in_memory, read_all

DEFINITION = Phi(
    architecture="phi",
    width=32,
    depth=3,
    heads=4,
    mlp_width=64,
    vocabulary=50,
    max_positions=64,
    rotary_fraction=0.5,
    qk_norm=False,
    attention_norm=False,
    weights="./unused",
    tokenizer="./unused",
)


def same_weights(definition: Phi) -> tuple[PhiForCausalLM, PhiLanguageModel]:
    """The library's Phi with random weights and biases, and ours with the same."""
    torch.manual_seed(0)
    stock = PhiForCausalLM(PhiConfig(**phi_config(definition).to_dict() | {"hidden_act": "gelu_new"})).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = PhiLanguageModel(definition).eval()
    stored = {name: in_memory(name, tensor) for name, tensor in stock.state_dict().items()}
    tensors = read_all(language_file(stored, definition).tensors)
    ours.load_state_dict({name.removeprefix("language_model."): tensor for name, tensor in tensors.items()})
    return stock, ours


@pytest.mark.parametrize("qk_norm", [False, True])
def test_with_the_same_weights_it_is_the_librarys_phi(qk_norm: bool) -> None:
    stock, ours = same_weights(DEFINITION.model_copy(update={"qk_norm": qk_norm}))
    input_ids = torch.randint(0, 50, (2, 11))
    attention_mask = torch.ones(2, 11, dtype=torch.long)
    attention_mask[1, :4] = 0
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = stock(input_ids, attention_mask=attention_mask, position_ids=positions).logits
        found = ours(input_ids, attention_mask=attention_mask, position_ids=positions).logits
    seen = attention_mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-5, rtol=0)


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    _, ours = same_weights(DEFINITION)
    embeds, mask = torch.randn(2, 8, 32), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    with torch.no_grad():
        padded = ours.hidden_states(embeds, mask)
        alone = ours.hidden_states(embeds[1:, :5], mask[1:, :5])
    torch.testing.assert_close(padded[1:, :5], alone, atol=1e-5, rtol=0)


def test_a_hole_in_the_mask_is_not_seen() -> None:
    _, ours = same_weights(DEFINITION)
    embeds, mask = torch.randn(1, 8, 32), torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]])
    other = embeds.clone()
    other[0, 3] = torch.randn(32)
    with torch.no_grad():
        seen = torch.tensor([0, 1, 2, 4, 5, 6, 7])
        torch.testing.assert_close(ours.hidden_states(embeds, mask)[:, seen], ours.hidden_states(other, mask)[:, seen])
        assert not torch.allclose(ours.hidden_states(embeds, None)[:, 7], ours.hidden_states(other, None)[:, 7])


def test_the_attention_norm_sits_on_the_attention_branch_alone() -> None:
    definition = DEFINITION.model_copy(update={"attention_norm": True, "depth": 1})
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


def test_gradient_checkpointing_changes_memory_not_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        _, ours = same_weights(DEFINITION)
        if checkpointing:
            ours.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        ours.train().hidden_states(torch.randn(2, 6, 32), None).square().sum().backward()
        gradients.append(ours.model.layers[0].self_attn.query_key_value.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
