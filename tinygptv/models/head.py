"""The decoder's head: states → logits, or → the losses of labels without ever holding the logits of all of them.

A step of 2,048 labels would hold 51,200 logits for each of them, several times over. Here they are made for some labels
at a time, together with what a sum of losses sends back through them: (p - y) W, as wide as a state. That alone waits
for the backward pass, which needs neither logits nor W again. So under ZeRO-3 every rank gathers W once in a step,
however many labels it has, even none. A loop around the head instead of inside it would gather it a different number of
times on each rank, and the ranks would deadlock.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOGITS_AT_A_TIME = 2**24
"""64 MiB in 32 bits, of which two or three exist at a time: little compared with a model, enough to keep a GPU busy."""


class Head(nn.Linear):
    """(…, D) -> (…, V): a linear map that also computes the loss of its logits.

    Both go through `forward`, because ZeRO-3 gathers a module's weight for the duration of a call.
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Head":
        """A head with the very parameters of `linear`."""
        head = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        head.weight, head.bias = linear.weight, linear.bias
        return head

    def forward(  # type: ignore[override]
        self, states: Tensor, targets: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(…, D) -> logits (…, V); or, with targets (L,), states (L, D) -> the sum of the labels' cross-entropies, and
        each of them (L,): nats in float32, of which the sum alone has a gradient."""
        if targets is None:
            return super().forward(states)
        return _SummedLoss.apply(states, self.weight, self.bias, targets, torch.is_grad_enabled())


class _SummedLoss(torch.autograd.Function):
    """Sum and losses as in `Head.forward`. Its gradient is known, up to one factor, in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[:3] if learns else (False, False, False)
        to_states = torch.empty_like(states) if needed[0] else None
        # Pieces are added up: in 32 bits, as one product of all labels would be.
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if needed[2] and bias is not None else None
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        piece = max(1, LOGITS_AT_A_TIME // len(weight))
        for rows in (slice(first, first + piece) for first in range(0, len(states), piece)):
            losses[rows], wrong = _judge(states[rows], weight, bias, targets[rows])
            if to_states is not None:
                torch.mm(wrong, weight, out=to_states[rows])
            if to_weight is not None:
                to_weight += wrong.t() @ states[rows]
            if to_bias is not None:
                to_bias += wrong.sum(dim=0)
            del wrong  # before the next piece is made
        ctx.save_for_backward(to_states, to_weight, to_bias)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if sent is None else sent * factor for sent in ctx.saved_tensors), None, None


def _judge(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each label (L,), and p - y (L, V) in the type of the states: what it sends back to the logits."""
    log_likely = nn.functional.linear(states, weight, bias).float().log_softmax(dim=-1)
    label = targets[:, None]
    losses = -log_likely.gather(1, label)[:, 0]
    wrong = log_likely.exp_().scatter_add_(1, label, torch.full_like(label, -1.0, dtype=torch.float32))
    return losses, wrong.to(states.dtype)
