"""In which order a table's URLs are asked for: nearly the table's, but with every site's requests spread out.

A table sorted by site would otherwise keep one site busy, within its limits, and leave the others idle. Pure.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HASTE = 4


def fetch_order(sites: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The order of rows that belong to `sites` (hashes, in table order), as indices into it. Shape (rows,) both.

    Row p, of a site's c rows the one of rank r, comes at the place min(4 p, (r + u) * rows / c), u being the site's own
    number between 0 and 1. The second part puts a site's rows at equal distances. The first one lets the table's first
    rows come early, so that shards can be finished one after the other: of a shuffled table a row is asked for after at
    most about five times as many as stand before it, and of a sorted one no site has more than a quarter of a stretch.
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
    """Of runs of equal values the first indices and the sizes, and for every element the number of its run."""
    is_first = np.ones(len(sorted_values), bool)
    is_first[1:] = sorted_values[1:] != sorted_values[:-1]
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(sorted_values)))
    return starts, sizes, np.cumsum(is_first) - 1
