"""Queries, keys and values as one linear map, and apart again; for weights, biases and low-rank adapters. All exact.

Three orders of the fused output are in use: [heads, 3, head width] in transformers 4.36, in which TinyGPT-V was trained
and which is ours; [3, heads, head width] in Microsoft's first Phi files; three maps in transformers since.
"""

import torch
from torch import Tensor


def fuse_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Three maps as one, ordered [heads, 3, head width]: three (D, ...) -> (3 D, ...)."""
    rest = query.shape[1:]
    split = [part.reshape(heads, -1, *rest) for part in (query, key, value)]
    return torch.stack(split, dim=1).reshape(-1, *rest)


def split_heads(fused: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of `fuse_heads`: (3 D, ...) -> three (D, ...)."""
    rest = fused.shape[1:]
    query, key, value = fused.reshape(heads, 3, -1, *rest).unbind(dim=1)
    return query.reshape(-1, *rest), key.reshape(-1, *rest), value.reshape(-1, *rest)


def interleave_heads(fused: Tensor, heads: int) -> Tensor:
    """[3, heads, head width] -> [heads, 3, head width], both (3 D, ...)."""
    rest = fused.shape[1:]
    return fused.reshape(3, heads, -1, *rest).transpose(0, 1).reshape(-1, *rest)
