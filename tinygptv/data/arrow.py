"""Python values as Arrow's, without the first thing that Arrow does about them.

`pa.array`, `pa.scalar` and whatever is handed a Python value import pandas where it is installed: half a second and
60 MB, for which a download, whose command is often short, has no other use.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json


def texts(values: Sequence[str | None]) -> pa.Array:
    """A column of texts, some of which may be missing."""
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=ends[1:])
    is_there = np.packbits(np.array([value is not None for value in values], bool), bitorder="little")
    buffers = [pa.py_buffer(is_there), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def text(value: str) -> pa.Scalar:
    """One text."""
    return texts([value])[0]


def number(value: int) -> pa.Scalar:
    """One whole number."""
    return pa.arange(value, value + 1)[0]


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of texts, numbers and truth values; what a row lacks is NULL, what the schema lacks is an error."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if not lines:
        return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    return pa.json.read_json(
        pa.BufferReader(lines),
        pa.json.ReadOptions(use_threads=False, block_size=len(lines)),
        pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    ).select(schema.names)
