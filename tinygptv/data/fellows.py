"""Rows that share a value with another: a fraction of all, looked at piece by piece."""

import re
from collections.abc import Iterator

import numpy as np

from tinygptv.data.rows import Rows

_CODES = "SELECT position, hash({by}) AS code FROM rows WHERE {by} IS NOT NULL"
_FELLOWS = """
SELECT {columns}, {by} AS same, hash({by}) AS code FROM rows WHERE get_bit(?::BLOB::BIT, position::INTEGER) = 1
"""


def fellows(rows: Rows, by: str, needs: str = "") -> Iterator[None]:
    """The rows whose value `by` another has too, as DuckDB's table `fellows` while each turn lasts.

    It has `position`, `earlier`, the value as `same`, and the columns of the sidecar that the SQL in `needs` names.
    Rows with one value come in one turn. Hashes decide who is there, so some may be without a fellow.
    """
    names = rows.database.sql("FROM rows LIMIT 0").columns
    needed = [name for name in names if re.search(rf"\b{name}\b", needs, re.IGNORECASE)]
    columns = ", ".join(dict.fromkeys(["position", "earlier", *needed]))
    for piece in rows.dealt(_FELLOWS.format(by=by, columns=columns), _marks(rows, by)):
        rows.database.register("fellows", piece)
        yield
        rows.database.unregister("fellows")


def _marks(rows: Rows, by: str) -> bytes:
    """One bit per row, set where it has a fellow."""
    marks = np.zeros(-(-rows.total // 8), np.uint8)
    for piece in rows.dealt(_CODES.format(by=by)):
        # Not by to_numpy, which would import pandas.
        code, position = (np.from_dlpack(piece[name].combine_chunks()) for name in ("code", "position"))
        order = np.argsort(code)
        is_same = np.diff(code[order]) == 0
        for fellow in (position[order[1:][is_same]], position[order[:-1][is_same]]):
            np.bitwise_or.at(marks, fellow >> 3, (128 >> (fellow & 7)).astype(np.uint8))
    return marks.tobytes()
