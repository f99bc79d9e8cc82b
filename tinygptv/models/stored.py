"""Tensors that are still in their file: name, shape and type are known, values are read when they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tinygptv.errors import HandoffError


@dataclass(frozen=True)
class Stored:
    """A tensor, or what is to be made of several, that costs no memory before `read` is called.

    `names` are the file's own names of what it is made of. `read` gives a tensor that may share memory with the file:
    copy it to keep it.
    """

    names: tuple[str, ...]
    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], Tensor]


Table = dict[str, Stored]


def in_memory(name: str, tensor: Tensor) -> Stored:
    """A tensor in memory, as if it were stored."""
    return Stored((name,), tensor.shape, tensor.dtype, lambda: tensor)


def derived(make: Callable[..., Tensor], parts: Sequence[Stored]) -> Stored:
    """What `make` gives for the tensors `parts`; its shape is found by running `make` without data."""
    empty = make(*(torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts))
    names = tuple(name for part in parts for name in part.names)
    return Stored(names, empty.shape, empty.dtype, lambda: make(*(part.read() for part in parts)))


def read_all(table: Table) -> dict[str, Tensor]:
    """All tensors at once, each with memory of its own."""
    return {name: stored.read().clone() for name, stored in table.items()}


class Stock(NamedTuple):
    """`tensors` go into transformers' model of a decoder family; `others` are those it has no place for."""

    tensors: dict[str, Tensor]
    others: dict[str, Tensor]


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load every tensor by name and shape; raises HandoffError that names the file and what does not fit."""
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    if missing or extra or shapes:
        raise HandoffError(
            f"{where} does not fit the configuration beside it: missing {missing[:3]}, left over {extra[:3]}, "
            f"of another shape {sorted(shapes)[:3]}; the two files must come from the same run"
        )
    module.load_state_dict(tensors)
