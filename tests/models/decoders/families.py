"""Both decoders small enough for any test, and a comparison with the library's own."""

import torch
from torch import nn

from tinygptv.definitions.decoders.llama import Llama
from tinygptv.definitions.decoders.phi import Phi

PHI = Phi(
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
LLAMA = Llama(
    architecture="llama",
    width=32,
    depth=3,
    heads=4,
    key_value_heads=2,
    mlp_width=48,
    vocabulary=50,
    max_positions=64,
    rms_norm_eps=1e-5,
    qk_norm=False,
    attention_norm=False,
    weights="./unused",
    tokenizer="./unused",
)


def assert_same_logits(ours: nn.Module, stock: nn.Module) -> None:
    """Two models agree at every token of a batch of which one row is padded on the left."""
    input_ids = torch.randint(0, 50, (2, 11))
    attention_mask = torch.ones(2, 11, dtype=torch.long)
    attention_mask[1, :4] = 0
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = stock(input_ids, attention_mask=attention_mask, position_ids=positions).logits
        found = ours(input_ids, attention_mask=attention_mask, position_ids=positions).logits
    seen = attention_mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-5, rtol=0)
