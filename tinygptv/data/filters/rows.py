"""The rows that a filter judges, and behind them those of earlier sidecars, as one DuckDB view."""

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

_MEMORY_PER_THREAD, _MOST_MEMORY = 16 << 20, 4 << 30
"""Bytes. What steps ask for is a few numbers per row, and what does not fit is spilled; but not everything can be."""

_OUT_OF_MEMORY = "Out of Memory Error"

_BATCH_ROWS, _PIECE_ROWS = 20_000, 250_000
_PLACES = """
SELECT position, key, shard, "offset", length, sha256 FROM {table} JOIN wanted USING (position) ORDER BY position
"""
PLACE = 'key shard "offset" length sha256'
"""The columns that say where an image is stored."""


class Rows:
    """Asked in SQL through the view `rows`: the columns of the sidecar, `position`, and `earlier`.

    `position` counts the rows that are judged from 0 to `count`, then the others to `total`; `earlier` is true for
    these, which only count as originals.
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
        """`images` holds the shards that `sidecar` points into, each folder of `earlier` its own and a sidecar;
        `scores` is the table of what a model says of the rows that are judged, in their order. `memory_bytes` is what
        the database begins with, if not what suits its threads."""
        self.database = database
        self.scores = scores
        self._images = [images, *earlier]
        sidecars = [sidecar, *(folder / SIDECAR for folder in earlier)]
        sizes = [pq.read_metadata(path).num_rows for path in sidecars]
        self._ends = np.cumsum(sizes)
        self.count, self.total = sizes[0], sum(sizes)
        # Sidecars of earlier versions may lack columns that came later.
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
        self._allow(memory_bytes)

    @property
    def spill(self) -> Path:
        """The folder in which the database spills; it is removed with the database."""
        return Path(self._setting("temp_directory"))

    def _setting(self, name: str) -> str:
        return str(self.database.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])

    def columns(self, query: str) -> dict[str, NDArray[Any]]:
        """All that a query answers, by column: numbers, none of them NULL."""

        def ask() -> dict[str, NDArray[Any]]:
            reader = self.batches(query)
            # Piece by piece, because DuckDB would hold the whole answer beside the arrays that are made of it.
            pieces = [[np.from_dlpack(column) for column in batch.columns] for batch in reader]
            none = [np.empty(0, field.type.to_pandas_dtype()) for field in reader.schema]
            columns = map(np.concatenate, zip(none, *pieces, strict=True))
            return dict(zip(reader.schema.names, columns, strict=True))

        return self._with_memory_enough(ask)

    def dealt(
        self, query: str, *parameters: object, rows: int | None = None, piece_rows: int = _PIECE_ROWS
    ) -> Iterator[pa.Table]:
        """All that a query answers, as tables of about `piece_rows`; rows of the same `code`, a hash, are in one.

        `rows` says about how many the query answers: if it is not given, as many as there are.
        """
        with tempfile.TemporaryDirectory(dir=self.spill, prefix="dealt-") as folder:
            buckets = Buckets(Path(folder), self.total if rows is None else rows, piece_rows)
            self._with_memory_enough(
                lambda: buckets.fill(self.database.sql(query, params=parameters).to_arrow_reader(_BATCH_ROWS))
            )
            yield from buckets

    def _with_memory_enough(self, work: Callable[[], T]) -> T:
        """Done again, with half as much memory again, until it suffices."""
        while True:
            try:
                return work()
            except (duckdb.OutOfMemoryException, OSError) as error:
                # Where answers have begun to come, Arrow hands on what DuckDB says as an error of its own.
                if _OUT_OF_MEMORY not in str(error) or self._memory_bytes >= _MOST_MEMORY:
                    raise
            self._allow(self._memory_bytes * 3 // 2)

    def _allow(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.database.execute(f"SET memory_limit = '{memory_bytes >> 20}MiB'")

    def batches(self, query: str, batch_rows: int = _BATCH_ROWS) -> pa.RecordBatchReader:
        """What a query answers, in pieces."""
        return self.database.sql(query).to_arrow_reader(batch_rows)

    def images(self, positions: Positions, table: str = "rows") -> Iterator[bytes]:
        """The stored images of rows, in ascending order of their positions; `table` has `position` and `PLACE`."""
        self.database.register("wanted", pa.table({"position": positions}))
        places = self.database.sql(_PLACES.format(table=table)).to_arrow_table()
        self.database.unregister("wanted")
        for batch in places.to_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                folder = self._images[int(np.searchsorted(self._ends, row["position"], side="right"))]
                yield read_image(folder, row)


def _columns(sidecar: Path, carried: Mapping[str, str]) -> str:
    """What is read of one sidecar: all the usual columns and, of those that its source took along, only what the first
    sidecar has too, of the type that they have there."""
    own = carried_columns(sidecar)
    left_out = ", ".join(f'"{name}"' for name in ("file_row_number", *own))
    shared = [f', TRY_CAST("{name}" AS {kind}) AS "{name}"' for name, kind in carried.items() if name in own]
    return f"* EXCLUDE ({left_out}){''.join(shared)}"
