"""Who sees whom in the decoder, by kind of attention; the one place where masks are made.

B rows, T tokens that are fed in, S tokens they may look at: those of the cache, then the T. A mask is boolean,
(B, 1, T, S), and true where row b's token t sees token s. None is plain causal attention, for which the kernels need
no mask.
"""

from typing import assert_never

import torch
from torch import Tensor

from tinygptv.definitions.parts import AttentionKind


def attention_mask(
    kind: AttentionKind,
    visible: Tensor,
    tokens: int,
    context: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor | None:
    """The mask of the last `tokens` of `visible` (B, S), which is 0 for padding.

    `context` (B, T) marks the tokens known before the answer begins; None if there are none, as when generated tokens
    are fed back one at a time. With `position_ids` (B, T), 0 where a sequence begins, several sequences share a row.
    """
    match kind:
        case "causal":
            return causal(visible, tokens) if position_ids is None else packed(visible, position_ids)
        case "prefix":
            return causal(visible, tokens) if context is None else prefix(visible, context, position_ids)
        case _:
            assert_never(kind)


def causal(visible: Tensor, tokens: int) -> Tensor | None:
    """Every token sees those before it and itself. (B, S) -> (B, 1, T, S).

    Padding on the right needs no mask, because no token looks there; nor does a single token that sees everything.
    """
    length = visible.shape[1]
    if tokens == length and bool((visible.diff(dim=1) <= 0).all()):
        return None
    if tokens == 1 and bool(visible.all()):
        return None
    order = torch.ones(tokens, length, dtype=torch.bool, device=visible.device).tril(length - tokens)
    return (order & visible[:, None, :].bool())[:, None]


def packed(visible: Tensor, position_ids: Tensor) -> Tensor:
    """Causal within each sequence of a row. (B, T), (B, T) -> (B, 1, T, T).

    A sequence begins wherever a position is 0; its first token is visible, so that every token sees one.
    """
    return (_together(position_ids) & visible[:, None, :].bool()).tril()[:, None]


def prefix(visible: Tensor, context: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Causal, and every token of the context sees all of it. (B, T), (B, T) -> (B, 1, T, T).

    With `position_ids` every sequence of a row has a context of its own.
    """
    order = torch.ones(visible.shape[1], visible.shape[1], dtype=torch.bool, device=visible.device).tril()
    seen = order | (context[:, :, None] & context[:, None, :])
    if position_ids is not None:
        seen = seen & _together(position_ids)
    return (seen & visible[:, None, :].bool())[:, None]


def before_first(answers: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Which tokens stand before the first true one of `answers` in their sequence. (B, T) -> (B, T)."""
    begun = answers.long()
    if position_ids is None:
        return begun.cumsum(dim=1) == 0
    return (_together(position_ids).tril() & answers[:, None, :]).sum(dim=2) == 0


def _together(position_ids: Tensor) -> Tensor:
    """Which tokens belong to one sequence. (B, T) -> (B, T, T)."""
    sequence = (position_ids == 0).cumsum(dim=1)
    return sequence[:, :, None] == sequence[:, None, :]
