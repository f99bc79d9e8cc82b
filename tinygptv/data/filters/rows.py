"""The rows to filter, followed by those of earlier sidecars, as one DuckDB view."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv.data.columns.buckets import Buckets
from tinygptv.data.columns.database import literal
from tinygptv.data.shards.shards import SIDECAR, carried_columns, read_image
from tinygptv.definitions.filters import SIDECAR_COLUMNS

Positions = NDArray[np.integer[Any]]

T = TypeVar("T")

_MEMORY_PER_THREAD, _MAX_MEMORY = 16 << 20, 4 << 30
"""Bytes. Queries need a few numbers per row and mostly spill, but DuckDB cannot spill everything."""

_OUT_OF_MEMORY = "Out of Memory Error"

_BATCH_ROWS, _PIECE_ROWS = 20_000, 250_000
_LOCATIONS = """
SELECT position, key, shard, "offset", length, sha256 FROM {table} JOIN wanted USING (position) ORDER BY position
"""
LOCATION_COLUMNS = 'key shard "offset" length sha256'
"""The columns that locate a stored image."""


class Rows:
    """Queried in SQL through the view `rows`: the sidecar's columns, `position`, and `earlier`.

    `position` numbers the rows to filter from 0 to `count`, then the others up to `total`. `earlier` is true for the
    others, which only serve as originals.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        sidecar: Path,
        images: Path,
        earlier: Sequence[Path] = (),
        memory_bytes: int | None = None,
        scores: Path | None = None,
    ) -> None:
        """`images` holds the shards of `sidecar`; each folder in `earlier` has its own shards and sidecar.

        `scores` is the scores table of the rows to filter, in the same order. `memory_bytes` is the initial memory
        limit of the database; by default it depends on the number of threads.
        """
        self.database = database
        self.scores = scores
        self._images = [images, *earlier]
        sidecars = [sidecar, *(folder / SIDECAR for folder in earlier)]
        sizes = [pq.read_metadata(path).num_rows for path in sidecars]
        self._ends = np.cumsum(sizes)
        self.count, self.total = sizes[0], sum(sizes)
        # Sidecars of earlier versions may lack newer columns.
        typed = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in SIDECAR_COLUMNS.items())
        carried = carried_columns(sidecar)
        parts = [f"(SELECT {typed} LIMIT 0)"]
        parts += [
            f"SELECT {_columns(path, carried)}, file_row_number + {end - size} AS position, {number > 0} AS earlier "
            f"FROM read_parquet({literal(path)}, file_row_number = TRUE)"
            for number, (path, size, end) in enumerate(zip(sidecars, sizes, self._ends.tolist(), strict=True))
        ]
        database.execute(f"CREATE VIEW rows AS {' UNION ALL BY NAME '.join(parts)}")
        if memory_bytes is None:
            memory_bytes = _MEMORY_PER_THREAD * int(self._setting("threads"))
        self._set_memory_limit(memory_bytes)

    @property
    def spill(self) -> Path:
        """The folder into which the database spills; it is removed with the database."""
        return Path(self._setting("temp_directory"))

    def _setting(self, name: str) -> str:
        return str(self.database.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])

    def columns(self, query: str) -> dict[str, NDArray[Any]]:
        """A query's result as one array per column; columns must be numeric and without NULLs."""

        def ask() -> dict[str, NDArray[Any]]:
            reader = self.batches(query)
            # In batches, because DuckDB would otherwise hold the whole result next to the arrays.
            pieces = [[np.from_dlpack(column) for column in batch.columns] for batch in reader]
            none = [np.empty(0, field.type.to_pandas_dtype()) for field in reader.schema]
            columns = map(np.concatenate, zip(none, *pieces, strict=True))
            return dict(zip(reader.schema.names, columns, strict=True))

        return self._with_enough_memory(ask)

    def partitioned(
        self, query: str, *parameters: object, rows: int | None = None, piece_rows: int = _PIECE_ROWS
    ) -> Iterator[pa.Table]:
        """Partition a query's result by its hash column `code` into tables of about `piece_rows`.

        `rows` estimates the size of the result; by default, the number of all rows.
        """
        with tempfile.TemporaryDirectory(dir=self.spill, prefix="dealt-") as folder:
            buckets = Buckets(Path(folder), self.total if rows is None else rows, piece_rows)
            self._with_enough_memory(
                lambda: buckets.fill(self.database.sql(query, params=parameters).to_arrow_reader(_BATCH_ROWS))
            )
            yield from buckets

    def _with_enough_memory(self, work: Callable[[], T]) -> T:
        """Run `work`, raising the memory limit by half until it succeeds."""
        while True:
            try:
                return work()
            except (duckdb.OutOfMemoryException, OSError) as error:
                # Once a result is streaming, Arrow wraps DuckDB's error in one of its own.
                if _OUT_OF_MEMORY not in str(error) or self._memory_bytes >= _MAX_MEMORY:
                    raise
            self._set_memory_limit(self._memory_bytes * 3 // 2)

    def _set_memory_limit(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.database.execute(f"SET memory_limit = '{memory_bytes >> 20}MiB'")

    def batches(self, query: str, batch_rows: int = _BATCH_ROWS) -> pa.RecordBatchReader:
        """A query's result in batches."""
        return self.database.sql(query).to_arrow_reader(batch_rows)

    def images(self, positions: Positions, table: str = "rows") -> Iterator[bytes]:
        """The stored images of rows in ascending order of position; `table` has `LOCATION_COLUMNS`."""
        self.database.register("wanted", pa.table({"position": positions}))
        places = self.database.sql(_LOCATIONS.format(table=table)).to_arrow_table()
        self.database.unregister("wanted")
        for batch in places.to_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                folder = self._images[int(np.searchsorted(self._ends, row["position"], side="right"))]
                yield read_image(folder, row)


def _columns(sidecar: Path, carried: Mapping[str, str]) -> str:
    """The columns to select from a sidecar: the standard ones and, cast to the same types, those additional ones that
    the first sidecar also has."""
    own = carried_columns(sidecar)
    left_out = ", ".join(f'"{name}"' for name in ("file_row_number", *own))
    shared = [f', TRY_CAST("{name}" AS {kind}) AS "{name}"' for name, kind in carried.items() if name in own]
    return f"* EXCLUDE ({left_out}){''.join(shared)}"
