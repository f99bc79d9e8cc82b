"""Queries, keys and values as one linear map, and apart again; for weights, biases and low-rank adapters. All exact.

Three orders of the fused output are in use: [heads, 3, head width] in transformers 4.36, in which TinyGPT-V was trained
and which is ours; [3, heads, head width] in Microsoft's first Phi files; three maps in transformers since.
"""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from tinygptv.definitions.parts import Decoder
from tinygptv.models.stored import Stock, Table, derived

FUSED, SPLIT = ".query_key_value.", tuple(f".{part}_proj." for part in "qkv")


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


def fuse_stock(table: Table, heads: int) -> Table:
    """Queries, keys and values of every layer as one map; exact. What has not all three is passed on as it is."""
    fused: Table = {}
    for name, stored in table.items():
        parts = trio(name)
        if not parts or any(part not in table for part in parts):
            fused[name] = stored
        elif name == parts[0]:
            fused[name.replace(".q_proj.", ".query_key_value.")] = derived(
                lambda query, key, value: fuse_heads(query, key, value, heads), [table[part] for part in parts]
            )
    return fused


def split_stock(table: Table, heads: int) -> Table:
    """The inverse of `fuse_stock`."""
    split: Table = {}
    for name, stored in table.items():
        if ".query_key_value." not in name:
            split[name] = stored
            continue
        for number, part in enumerate("qkv"):
            take = partial(_part, number, heads)
            split[name.replace(".query_key_value.", f".{part}_proj.")] = derived(take, [stored])
    return split


def trio(name: str) -> list[str]:
    """The names of the same tensor of queries, keys and values, if `name` is one of them; else nothing."""
    parts = [re.sub(r"\.[qkv]_proj\.", f".{part}_proj.", name) for part in "qkv"]
    return parts if parts[0] != parts[1] else []


def _part(number: int, heads: int, fused: Tensor) -> Tensor:
    return split_heads(fused, heads)[number]


def to_stock(tensors: Mapping[str, Tensor], definition: Decoder) -> Stock:
    """Tensors of a decoder, without `language_model.` before their names, in the stock layout. Exact.

    Fused queries, keys and values come apart, and so do adapters on them: `lora_A` is copied, `lora_B` split.
    """
    added = (".attention_norm.", *(() if definition.stock_has_qk_norm else (".q_layernorm.", ".k_layernorm.")))
    stock, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if any(norm in name for norm in added):
            others[name] = tensor
        elif FUSED not in name:
            stock[name] = tensor
        elif ".lora_A." in name:
            stock |= {name.replace(FUSED, part): tensor.clone() for part in SPLIT}
        else:
            pieces = split_heads(tensor, definition.heads)
            stock |= {name.replace(FUSED, part): piece for part, piece in zip(SPLIT, pieces, strict=True)}
    return Stock(stock, others)
