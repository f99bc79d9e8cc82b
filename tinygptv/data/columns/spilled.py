"""What need not be in memory: arrays in a file, some at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spilled:
    """Groups of arrays, read in the order they were appended, as often as one likes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._groups: list[int] = []
        path.touch()

    def append(self, *arrays: NDArray[Any]) -> None:
        """Add one group."""
        with self._path.open("ab") as file:
            for array in arrays:
                np.save(file, array, allow_pickle=False)
        self._groups.append(len(arrays))

    def __iter__(self) -> Iterator[list[NDArray[Any]]]:
        with self._path.open("rb") as file:
            for arrays in self._groups:
                yield [np.load(file, allow_pickle=False) for _ in range(arrays)]


class Records:
    """Arrays of bytes of one length in a file, read one by one."""

    def __init__(self, path: Path, length: int) -> None:
        self._path, self._length, self._count = path, length, 0
        path.touch()

    def extend(self, records: Iterable[NDArray[np.uint8]]) -> int:
        """Add records; the number of the first."""
        first = self._count
        with self._path.open("ab") as file:
            for record in records:
                record.tofile(file)
                self._count += 1
        return first

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        return np.fromfile(self._path, np.uint8, self._length, offset=number * self._length)
