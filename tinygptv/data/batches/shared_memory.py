"""Transfer of batches between processes through reusable shared memory.

Small values go through the pipe; tensors are placed in anonymous memory, which the kernel frees when the processes end.
Each side maps a block once. When the last tensor in a block is gone, the receiver releases it and the sender reuses it,
so batches need no new pages; allocating those would take longer than copying.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch
from torch import Tensor

from tinygptv.data.batches.batching import Batch

_ALIGNMENT, _PIECE = 64, 1 << 20
_Place = tuple[int, torch.Size, torch.dtype]
"""A tensor's offset in its block in bytes, its shape and its type."""


class Sender:
    """Writes batches into shared memory and announces them through the pipe; reuses released memory."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._memories: dict[int, mmap.mmap] = {}
        self._free: list[int] = []

    def take_back(self, numbers: Iterable[int]) -> None:
        """Mark released memory as free."""
        self._free += numbers

    def send(self, batches: Sequence[Batch]) -> None:
        """Send batches; the receiver gets them in the same order."""
        layouts, size = _layouts(batches)
        number, entries = self._number(size), []
        handle = None
        if number not in self._memories or len(self._memories[number]) < size:
            handle = os.memfd_create("batches")
            os.ftruncate(handle, -(-size // _PIECE) * _PIECE)
            self._memories[number] = mmap.mmap(handle, 0)
        try:
            for batch, layout in zip(batches, layouts, strict=True):
                for name, place in layout.items():
                    _tensor(self._memories[number], *place).copy_(getattr(batch, name))
                without: dict[str, Any] = dict.fromkeys(layout)
                entries.append((replace(batch, **without), layout))
            self._connection.send((number, handle is not None, entries))
            if handle is not None:
                send_handle(self._connection, handle, None)
        finally:
            if handle is not None:
                os.close(handle)

    def _number(self, size: int) -> int:
        """The smallest free block that is large enough, else one to be replaced, else a new one."""
        if not self._free:
            return len(self._memories)
        lengths = {number: len(self._memories[number]) for number in self._free}
        number = min(lengths, key=lambda number: (lengths[number] < size, lengths[number]))
        self._free.remove(number)
        return number


class Receiver:
    """Receives batches whose tensors are views of the sender's shared memory."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._memories: dict[int, mmap.mmap] = {}
        self._released: list[int] = []

    def released(self) -> list[int]:
        """Blocks that no tensor uses any more; each is returned once."""
        numbers = self._released.copy()
        del self._released[: len(numbers)]
        return numbers

    def receive(self) -> Any:
        """The next batches, or any other object sent through the pipe instead."""
        found = self._connection.recv()
        if not isinstance(found, tuple):
            return found
        number, is_new, entries = found
        if is_new:
            handle = recv_handle(self._connection)
            try:
                self._memories[number] = mmap.mmap(handle, 0)
            finally:
                os.close(handle)
        view = memoryview(self._memories[number])  # kept alive by every tensor
        weakref.finalize(view, self._released.append, number).atexit = False
        return [
            replace(batch, **{name: _tensor(view, *place) for name, place in layout.items()})
            for batch, layout in entries
        ]


def _layouts(batches: Sequence[Batch]) -> tuple[list[dict[str, _Place]], int]:
    """The layout of each batch's tensors by name, and the total size in bytes."""
    layouts, end = [], 0
    for batch in batches:
        layout: dict[str, _Place] = {}
        for name in (field.name for field in fields(batch)):
            if isinstance(tensor := getattr(batch, name), Tensor):
                layout[name] = end, tensor.shape, tensor.dtype
                end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        layouts.append(layout)
    return layouts, max(end, 1)


def _tensor(memory: mmap.mmap | memoryview, offset: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if not shape.numel():
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset).view(shape)
