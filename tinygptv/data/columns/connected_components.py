"""Graphs given as pairs of numbers: adjacency and connected components."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.integer[Any]]
"""(pairs, 2)"""


def neighbours(pairs: Pairs) -> dict[int, list[int]]:
    """For each number in a pair, the numbers it is paired with."""
    near: dict[int, list[int]] = defaultdict(list)
    for one, other in pairs.tolist():
        near[one].append(other)
        near[other].append(one)
    return dict(near)


def connected_components(pairs: Pairs) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """The distinct numbers in `pairs`, ascending, and for each the smallest number of its connected component."""
    values, places = np.unique(pairs, return_inverse=True)
    one, other = places.reshape(-1, 2).T
    least = np.arange(len(values))
    while True:
        # Propagate the smaller label along each pair, then follow labels, until nothing changes.
        before = least.copy()
        smaller = np.minimum(least[one], least[other])
        np.minimum.at(least, one, smaller)
        np.minimum.at(least, other, smaller)
        least = least[least]
        if np.array_equal(least, before):
            return values, values[least]
