"""What an engine is asked for, shard by shard on disk, in the order of asking; in memory are a few numbers per URL."""

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygptv.data.fetch.native.fetch_order import fetch_order
from tinygptv.data.fetch.results import Asked


class Todo:
    """Iterates over (shard, what is asked for it), in `fetch_order`; `sizes` are the shards' counts of URLs."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        starts, sites = array("q"), array("Q")
        self.sizes: list[int] = []
        for path in paths:
            with path.open("rb") as lines:
                offset = 0
                for line in lines:
                    starts.append(offset)
                    sites.append(_site(Asked(*json.loads(line)).url))
                    offset += len(line)
            self.sizes.append(len(starts) - sum(self.sizes))
        self._starts = np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64)
        self._ends = np.cumsum(self.sizes)
        self._order = fetch_order(np.frombuffer(sites, np.uint64) if sites else np.empty(0, np.uint64))

    def __iter__(self) -> Iterator[tuple[str, Asked]]:
        for index in map(int, self._order):
            path = self.paths[int(np.searchsorted(self._ends, index, side="right"))]
            with path.open("rb") as lines:
                lines.seek(int(self._starts[index]))
                yield path.stem, Asked(*json.loads(lines.readline()))


def _site(url: str) -> int:
    """A number for scheme, host and port, which end at the third slash of a URL in its one spelling."""
    origin = "/".join(url.split("/", 3)[:3])
    return int.from_bytes(hashlib.blake2b(origin.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
