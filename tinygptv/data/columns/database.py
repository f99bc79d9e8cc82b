"""DuckDB as curation uses it: bounded in memory, spilling beside its work, never fetching an extension, and with the
macros that filters and checks use on captions."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from tinygptv.data.columns.scripts import TEXT_MACROS

_MEMORY_BYTES, _MAX_MEMORY_BYTES = 256 << 20, 4 << 30


@contextlib.contextmanager
def connect(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database that spills into `folder` beyond 256 MB.

    Meanwhile Arrow takes its memory from the system: its own pool keeps what was freed, 30 MB of it here.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        with _opened(folder) as database:
            yield database
    finally:
        pa.set_memory_pool(pool)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="spill-") as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{_MEMORY_BYTES >> 20}MiB",
            "temp_directory": spill,
        }
        with duckdb.connect(config=config) as database:
            database.execute(TEXT_MACROS)
            yield database


def execute(database: duckdb.DuckDBPyConnection, query: str, memory_bytes: int) -> duckdb.DuckDBPyConnection:
    """Run a query within so much memory; where that does not suffice for what cannot be spilled, with more."""
    while True:
        database.execute(f"SET memory_limit = '{memory_bytes >> 20}MiB'")
        try:
            return database.execute(query)
        except duckdb.OutOfMemoryException:
            if memory_bytes >= _MAX_MEMORY_BYTES:
                raise
            memory_bytes = memory_bytes * 3 // 2


def literal(text: str | Path) -> str:
    """A text or path as SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def with_columns(columns: Mapping[str, str], table: Path | None) -> str:
    """SQL for typed columns of a Parquet file: NULL where an older file lacks one, and no rows if there is no file."""
    typed = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
    if table is None:
        return f"SELECT {typed} LIMIT 0"
    names = ", ".join(f'"{name}"' for name in columns)
    every = f"SELECT * FROM (SELECT {typed} LIMIT 0) UNION ALL BY NAME SELECT * FROM read_parquet({literal(table)})"
    return f"SELECT {names} FROM ({every})"
