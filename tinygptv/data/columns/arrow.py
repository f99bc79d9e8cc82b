"""Python values as Arrow's and Arrow's as NumPy's, without the first thing that Arrow does about them.

`pa.array`, `pa.scalar`, `to_numpy` and whatever is handed a Python value import pandas where it is installed: half a
second and 60 MB, for which a download, whose command is often short, has no other use.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

_ROWS_PER_GROUP, _PACKED_ROWS = 10_000, 500


def texts(values: Sequence[str | None]) -> pa.Array:
    """A column of texts, some of which may be missing."""
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=ends[1:])
    is_there = np.packbits(np.array([value is not None for value in values], bool), bitorder="little")
    buffers = [pa.py_buffer(is_there), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def floats(values: Sequence[float | None]) -> pa.Array:
    """A column of numbers, some of which may be missing."""
    is_there = np.packbits(np.array([value is not None for value in values], bool), bitorder="little")
    given = np.array([0.0 if value is None else value for value in values], np.float64)
    return pa.Array.from_buffers(pa.float64(), len(values), [pa.py_buffer(is_there), pa.py_buffer(given)])


def text(value: str) -> pa.Scalar:
    """One text."""
    return texts([value])[0]


def number(value: int) -> pa.Scalar:
    """One whole number."""
    return pa.arange(value, value + 1)[0]


def places(positions: NDArray[np.int64]) -> pa.Array:
    """Positions in an array, for `take`."""
    return pa.Array.from_buffers(pa.int64(), len(positions), [None, pa.py_buffer(positions)])


def numbers(of: pa.Table | pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column of numbers, none of them NULL; its memory is shared where it can be."""
    column = of[name]
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of texts, numbers and truth values; what a row lacks is NULL, what the schema lacks is an error."""
    there = ({name: value for name, value in row.items() if value is not None} for row in rows)
    lines = "".join(json.dumps(row) + "\n" for row in there).encode()
    if not lines:
        return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    return pa.json.read_json(
        pa.BufferReader(lines),
        pa.json.ReadOptions(use_threads=False, block_size=len(lines)),
        pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    ).select(schema.names)


def parquet(path: Path) -> pq.ParquetFile:
    """A table to be read batch by batch. With Arrow's default, what has been read would stay in memory to the end."""
    return pq.ParquetFile(path, pre_buffer=False)


class RowGroups:
    """Rows on their way into a Parquet file, written in groups of `_ROWS_PER_GROUP`.

    Until a group is full its rows are kept as columns, which take a twentieth of what dicts do.
    """

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[Mapping[str, Any]] = []
        self._packed: list[pa.Table] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        self._rows.append(row)
        if len(self._rows) == _PACKED_ROWS:
            self._pack()
        if len(self._packed) * _PACKED_ROWS == _ROWS_PER_GROUP:
            self.finish()

    def finish(self) -> None:
        """Write what there is."""
        self._pack()
        if self._packed:
            self._writer.write_table(pa.concat_tables(self._packed).combine_chunks())
        self._packed = []

    def _pack(self) -> None:
        if self._rows:
            self._packed.append(table(self._rows, self._schema))
        self._rows = []
