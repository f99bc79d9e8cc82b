"""What holds for every decoder."""

import pytest
import torch

from tests.models.decoders.families import LLAMA, PHI
from tinygptv.definitions.parts import Decoder
from tinygptv.models.kinds import decoder_kind
from tinygptv.models.masks import causal


@pytest.fixture(params=[PHI, LLAMA], ids=["phi", "llama"])
def definition(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(0)
    return request.param


def test_padding_on_the_right_changes_nothing_before_it(definition: Decoder) -> None:
    ours = decoder_kind(definition).build().eval()
    embeds, mask = torch.randn(2, 8, 32), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    with torch.no_grad():
        padded = ours.hidden_states(embeds, causal(mask, 8))
        alone = ours.hidden_states(embeds[1:, :5], None)
    torch.testing.assert_close(padded[1:, :5], alone, atol=1e-5, rtol=0)


def test_a_hole_in_the_mask_is_not_seen(definition: Decoder) -> None:
    ours = decoder_kind(definition).build().eval()
    embeds, mask = torch.randn(1, 8, 32), torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]])
    other = embeds.clone()
    other[0, 3] = torch.randn(32)
    seen, holed = torch.tensor([0, 1, 2, 4, 5, 6, 7]), causal(mask, 8)
    with torch.no_grad():
        first, second = (ours.hidden_states(each, holed)[:, seen] for each in (embeds, other))
        torch.testing.assert_close(first, second)
        assert not torch.allclose(ours.hidden_states(embeds, None)[:, 7], ours.hidden_states(other, None)[:, 7])


def test_gradient_checkpointing_changes_memory_not_gradients(definition: Decoder) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        ours = decoder_kind(definition).build().train()
        if checkpointing:
            ours.activation_checkpointing_enable({"use_reentrant": False})
        ours.hidden_states(torch.randn(2, 6, 32), None).square().sum().backward()
        gradients.append([parameter.grad for parameter in ours.model.layers.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
