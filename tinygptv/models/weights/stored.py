"""Tensors that are still in their file: known by name, shape and type, read when they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    """A tensor at hand, as if it were stored."""
    return Stored((name,), tensor.shape, tensor.dtype, lambda: tensor)


def derived(make: Callable[..., Tensor], parts: Sequence[Stored]) -> Stored:
    """What `make` gives for the tensors `parts`; its shape is found by running `make` without data."""
    empty = make(*(torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts))
    names = tuple(name for part in parts for name in part.names)
    return Stored(names, empty.shape, empty.dtype, lambda: make(*(part.read() for part in parts)))


def read_all(table: Table) -> dict[str, Tensor]:
    """All tensors at once, each with memory of its own."""
    return {name: stored.read().clone() for name, stored in table.items()}
