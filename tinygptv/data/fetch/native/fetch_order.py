"""The order in which URLs are requested: close to table order, but with each site's requests spread out.

A table sorted by site would otherwise keep one site busy, within its limits, and leave the others idle. Pure.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HASTE = 4


def fetch_order(sites: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The fetch order of rows with these `sites` (hashes, in table order), as row indices. Both have shape (rows,).

    Row p, which is row r of its site's c rows, is placed at min(4 p, (r + u) * rows / c), where u in [0, 1) is derived
    from the site's hash. The second term spaces a site's rows evenly. The first one keeps early rows early, so that
    shards complete one after the other: in a shuffled table a row moves back to at most about five times its position,
    and in a sorted table no site takes more than a quarter of any stretch.
    """
    count = len(sites)
    by_site = np.argsort(sites, kind="stable")
    starts, sizes, which = _runs(sites[by_site])
    ranks = np.arange(count) - starts[which]
    offsets = (sites[by_site] >> np.uint64(32)).astype(np.float64) / 2.0**32
    spread = np.empty(count)
    spread[by_site] = (ranks + offsets) * (count / sizes[which])
    return np.argsort(np.minimum(spread, _HASTE * np.arange(count)), kind="stable")


def _runs(sorted_values: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """First indices and sizes of the runs of equal values, and for each element the number of its run."""
    is_first = np.ones(len(sorted_values), bool)
    is_first[1:] = sorted_values[1:] != sorted_values[:-1]
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(sorted_values)))
    return starts, sizes, np.cumsum(is_first) - 1
