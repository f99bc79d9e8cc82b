"""Scores that were made before, found again by what was scored."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv.data.columns.arrow import parquet

_DIGITS = 16


class Known:
    """A scores table, or none, asked for pairs. Memory holds 16 bytes for each of its rows, and one row group."""

    def __init__(self, table: Path | None) -> None:
        self.found = 0
        """How many pairs were in the table."""
        self._file = None if table is None else parquet(table)
        codes = [] if self._file is None else [_codes(pairs) for pairs in _pairs(self._file)]
        self._ends = np.cumsum([len(group) for group in codes])
        every = np.concatenate([np.empty(0, np.uint64), *codes])
        self._order = np.argsort(every, kind="stable")
        self._codes = every[self._order]

    def find(self, pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The rows of those that are in the table, by pair; without their keys, which may be others today."""
        if self._file is None or not len(self._codes):
            return {}
        wanted = _codes(pairs)
        places = np.minimum(np.searchsorted(self._codes, wanted), len(self._codes) - 1)
        rows = self._order[places[self._codes[places] == wanted]]
        said: dict[str, dict[str, Any]] = {}
        for group in np.unique(np.searchsorted(self._ends, rows, side="right")).tolist():
            table = self._file.read_row_group(group).drop_columns("key")
            mine = table.filter(pc.is_in(table["pair"], value_set=pa.array(pairs, pa.string())))
            said |= {row["pair"]: row for row in mine.to_pylist()}
        self.found += len(said)
        return said


def _pairs(file: pq.ParquetFile) -> Iterator[list[str]]:
    """Of each row group."""
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, ["pair"])["pair"].to_pylist()


def _codes(pairs: Sequence[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each hash; whole hashes decide."""
    return np.array([int(pair[:_DIGITS], 16) for pair in pairs], np.uint64)
