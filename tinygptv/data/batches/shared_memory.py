"""Batches from one process to another, in shared memory that goes to and fro.

What is small goes through the pipe. Tensors lie in anonymous memory, of which nothing is left when a process is killed.
A piece of it is mapped once by either side. When the last tensor that lies in it is gone, the receiver gives it back,
and the sender fills it again: so no batch costs new pages, which take longer than copying does.
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
"""Where a tensor lies in its memory: offset in bytes, shape, type."""


class Sender:
    """Puts batches into memory and tells the other side where; what was given back is used again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._memories: dict[int, mmap.mmap] = {}
        self._free: list[int] = []

    def take_back(self, numbers: Iterable[int]) -> None:
        """These pieces of memory may be filled again."""
        self._free += numbers

    def send(self, batches: Sequence[Batch]) -> None:
        """To be received in the same order."""
        layouts, size = _layouts(batches)
        number, told = self._number(size), []
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
                told.append((replace(batch, **without), layout))
            self._connection.send((number, handle is not None, told))
            if handle is not None:
                send_handle(self._connection, handle, None)
        finally:
            if handle is not None:
                os.close(handle)

    def _number(self, size: int) -> int:
        """The least free memory that is large enough, else one that is too small and is replaced, else a new one."""
        if not self._free:
            return len(self._memories)
        lengths = {number: len(self._memories[number]) for number in self._free}
        number = min(lengths, key=lambda number: (lengths[number] < size, lengths[number]))
        self._free.remove(number)
        return number


class Receiver:
    """Batches whose tensors lie in the memory that a sender filled."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._memories: dict[int, mmap.mmap] = {}
        self._released: list[int] = []

    def released(self) -> list[int]:
        """Memory in which no tensor lies any more and that the sender has not been told of."""
        numbers = self._released.copy()
        del self._released[: len(numbers)]
        return numbers

    def receive(self) -> Any:
        """Batches, or whatever else was sent through the pipe in their place."""
        found = self._connection.recv()
        if not isinstance(found, tuple):
            return found
        number, is_new, told = found
        if is_new:
            handle = recv_handle(self._connection)
            try:
                self._memories[number] = mmap.mmap(handle, 0)
            finally:
                os.close(handle)
        view = memoryview(self._memories[number])  # every tensor keeps it alive
        weakref.finalize(view, self._released.append, number).atexit = False
        return [
            replace(batch, **{name: _tensor(view, *place) for name, place in layout.items()}) for batch, layout in told
        ]


def _layouts(batches: Sequence[Batch]) -> tuple[list[dict[str, _Place]], int]:
    """Where the tensors of each batch shall lie, by their names, and the bytes that it takes."""
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
