"""A language model of ours → the tensors of transformers' own, and what it has no place for."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from tinygptv.definitions.model import LanguageModel, Phi
from tinygptv.models.weights.fusing import split_heads

FUSED, SPLIT = ".query_key_value.", tuple(f".{part}_proj." for part in "qkv")


class Stock(NamedTuple):
    """`tensors` go into transformers' model of that architecture; `others` are norms that only TinyGPT-V has."""

    tensors: dict[str, Tensor]
    others: dict[str, Tensor]


def to_stock(tensors: Mapping[str, Tensor], definition: LanguageModel) -> Stock:
    """Tensors of a language model, without `language_model.` before their names, in the stock layout. Exact.

    Phi's queries, keys and values come apart, and so do adapters on them: `lora_A` is copied, `lora_B` split. Its
    QK-norm is transformers' own (`qk_layernorm`); Llama has none there.
    """
    is_phi = isinstance(definition, Phi)
    stock, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if ".attention_norm." in name or (not is_phi and (".q_layernorm." in name or ".k_layernorm." in name)):
            others[name] = tensor
        elif FUSED not in name:
            stock[name] = tensor
        elif ".lora_A." in name:
            stock |= {name.replace(FUSED, part): tensor.clone() for part in SPLIT}
        else:
            pieces = split_heads(tensor, definition.heads)
            stock |= {name.replace(FUSED, part): piece for part, piece in zip(SPLIT, pieces, strict=True)}
    return Stock(stock, others)
