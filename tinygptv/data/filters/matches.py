"""Rows that have fellows, of the same value or of one near it: a fraction of all, looked at piece by piece."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.columns.arrow import numbers
from tinygptv.data.filters.rows import Positions, Rows

_PIECE_ROWS = 100_000
_HASHES = "SELECT position, hash({by}) AS code FROM rows WHERE {by} IS NOT NULL"
_MARKED = """
SELECT {columns}, {by} AS same, hash({together}) AS code
FROM {joined} WHERE get_bit(?::BLOB::BIT, position::INTEGER) = 1
"""


class Marks:
    """One bit per row."""

    def __init__(self, rows: int) -> None:
        self._bits = np.zeros(-(-rows // 8), np.uint8)

    def add(self, positions: Positions) -> None:
        """Mark these rows."""
        np.bitwise_or.at(self._bits, positions >> 3, (128 >> (positions & 7)).astype(np.uint8))

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum())

    def __bytes__(self) -> bytes:
        return self._bits.tobytes()


def repeated(values: NDArray[Any]) -> NDArray[np.intp]:
    """Where those are that occur more than once."""
    order = np.argsort(values)
    is_same = np.diff(values[order]) == 0
    is_repeated = np.zeros(len(values), np.bool_)
    is_repeated[1:] |= is_same
    is_repeated[:-1] |= is_same
    return order[is_repeated]


def fellows(rows: Rows, by: str, needs: str = "") -> Iterator[None]:
    """The rows whose value `by` another has too, as `marked` gives them. Hashes decide who is marked, so that some may
    be without a fellow."""
    marks = Marks(rows.total)
    for piece in rows.dealt(_HASHES.format(by=by)):
        marks.add(numbers(piece, "position")[repeated(numbers(piece, "code"))])
    yield from marked(rows, marks, by, needs)


def marked(
    rows: Rows,
    marks: Marks,
    by: str,
    needs: str = "",
    joined: str = "rows",
    together: str | None = None,
    piece_rows: int = _PIECE_ROWS,
) -> Iterator[None]:
    """The rows that are marked, about `piece_rows` in a turn, as DuckDB's table `fellows` while it lasts.

    It has `position`, `earlier`, the value `by` as `same`, and the sidecar's columns that the SQL in `needs` names.
    Rows come in one turn that have the same value; or the same of `together`, SQL over `joined`: rows, and what goes
    with them.
    """
    names = rows.database.sql("FROM rows LIMIT 0").columns
    needed = [name for name in names if re.search(rf"\b{name}\b", needs, re.IGNORECASE)]
    columns = ", ".join(f'"{name}"' for name in dict.fromkeys(["position", "earlier", *needed]))
    query = _MARKED.format(columns=columns, by=by, together=together or by, joined=joined)
    for piece in rows.dealt(query, bytes(marks), rows=len(marks), piece_rows=piece_rows):
        rows.database.register("fellows", piece)
        yield
        rows.database.unregister("fellows")
