"""The loss of the decoder's head, the widest product of the model, without ever holding all of its logits.

Logits are made for some tokens at a time and again in the backward pass, so that a step holds those of one piece
instead of those of the batch: exact but for rounding, at the price of the head's product once more.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_A_TIME = 2**24
"""64 MiB in 32 bits, of which a backward pass holds three or four: little beside a model, enough to keep a GPU busy."""


def token_losses(head: nn.Module, states: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Cross-entropy of every token, in nats: (L, D) states, (L,) ids -> (L,) float32."""
    piece = max(1, LOGITS_AT_A_TIME // vocabulary)
    if len(states) <= piece:  # the same peak without making them twice
        return _losses(head, states, targets)
    pieces = zip(states.split(piece), targets.split(piece), strict=True)
    return torch.cat([_again(head, some, wanted) for some, wanted in pieces])


def _again(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    losses: Tensor = checkpoint(_losses, head, states, targets, use_reentrant=False)
    return losses


def _losses(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(states).float(), targets, reduction="none")
