"""Who hangs together by pairs: neighbours, and chains of them."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.integer[Any]]
"""(pairs, 2)"""


def neighbours(pairs: Pairs) -> dict[int, list[int]]:
    """For each number that is in a pair, the others it is in one with."""
    near: dict[int, list[int]] = defaultdict(list)
    for one, other in pairs.tolist():
        near[one].append(other)
        near[other].append(one)
    return dict(near)


def chains_of(pairs: Pairs) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """The numbers that are in pairs, ascending, and for each the smallest that a chain of pairs leads to."""
    values, places = np.unique(pairs, return_inverse=True)
    one, other = places.reshape(-1, 2).T
    least = np.arange(len(values))
    while True:
        # The smaller of both ends, and then what that leads to, until nothing changes.
        before = least.copy()
        smaller = np.minimum(least[one], least[other])
        np.minimum.at(least, one, smaller)
        np.minimum.at(least, other, smaller)
        least = least[least]
        if np.array_equal(least, before):
            return values, values[least]
