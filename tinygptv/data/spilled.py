"""What need not be in memory: arrays in a file, some at a time."""

from collections.abc import Iterator
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
