"""The ledger: one row per table row, in table order, saying what became of it.

Planning fills in what can be known without fetching: rows that are no pairs, URLs nobody may ask for, later copies of
an earlier URL, hosts that do not exist. What is left is fetched. Tables may be far larger than memory, so rows stream
to Parquet and DuckDB does what needs all of them at once.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.data.database import connect, literal
from tinygptv.data.guard import host_of, normalise_url, refusal, resolve_hosts
from tinygptv.data.readers import BASE_URL, TableRow

logger = logging.getLogger(__name__)

LEDGER = "ledger.parquet"
KEPT = "kept"
"""The outcome of a row that became a sample; every other outcome is the reason it was dropped."""

_ROWS = pa.schema(
    [
        ("position", pa.int64()),
        ("table_name", pa.string()),
        ("table_row", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("similarity", pa.float64()),
        ("punsafe", pa.float64()),
        ("pwatermark", pa.float64()),
        ("licence", pa.string()),
        ("problem", pa.string()),
        ("host", pa.string()),
    ]
)
_OUTCOMES = pa.schema([("position", pa.int64()), ("problem", pa.string())])
_BATCH_ROWS = 10_000
_RESOLVE_SECONDS, _RESOLVE_SECONDS_PER_HOST = 30.0, 0.1

_PLAN = """
COPY (
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY url, problem IS NULL ORDER BY position) AS copy
        FROM read_parquet({rows})
    )
    SELECT ranked.* EXCLUDE (copy, problem, host),
        coalesce(problem, CASE WHEN copy > 1 THEN 'duplicate_url' END, hosts.verdict) AS problem
    FROM ranked LEFT JOIN hosts ON ranked.host = hosts.name
    ORDER BY position
) TO {plan} (FORMAT parquet)
"""

_SETTLE = """
COPY (
    SELECT table_name, table_row, url, coalesce(plan.problem, outcomes.problem, '{kept}') AS outcome
    FROM read_parquet({plan}) AS plan LEFT JOIN read_parquet({outcomes}) AS outcomes USING (position)
    ORDER BY position
) TO {ledger} (FORMAT parquet, COMPRESSION zstd)
"""


def make_plan(rows: Iterable[TableRow], plan: Path, allow_private: bool) -> None:
    """Write `plan`: every row, with the `problem` that keeps it from being fetched, or NULL.

    URLs keep their `__BASE_URL__`, so that neither the plan nor what follows from it depends on a port. An existing
    plan is kept: what an interrupted download has already fetched belongs to it.
    """
    if plan.exists():
        return
    written, partial = plan.with_suffix(".rows"), plan.with_suffix(".partial")
    _write_rows(rows, written)
    with connect(plan.parent) as database:
        found = database.execute(
            f"SELECT DISTINCT host FROM read_parquet({literal(written)}) WHERE problem IS NULL AND host != ''"
        ).fetchall()
        hosts = sorted(host for (host,) in found)
        if hosts:
            logger.info("resolving %d hosts", len(hosts))
        verdicts = resolve_hosts(hosts, allow_private, _RESOLVE_SECONDS + _RESOLVE_SECONDS_PER_HOST * len(hosts))
        verdict_table = pa.table({"name": list(verdicts), "verdict": pa.array(verdicts.values(), pa.string())})
        database.register("hosts", verdict_table)
        database.execute(_PLAN.format(rows=literal(written), plan=literal(partial)))
    written.unlink()
    partial.rename(plan)


def to_fetch(plan: Path, rows_per_chunk: int) -> Iterator[list[dict[str, Any]]]:
    """The plan's rows without a problem, in order, in chunks."""
    chunk: list[dict[str, Any]] = []
    for batch in pq.ParquetFile(plan).iter_batches(_BATCH_ROWS):
        for row in batch.to_pylist():
            if row["problem"] is None:
                chunk.append(row)
            if len(chunk) == rows_per_chunk:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


class Outcomes:
    """What became of the rows that were fetched, streamed to a file beside the plan."""

    def __init__(self, plan: Path) -> None:
        self._plan, self._path = plan, plan.with_suffix(".outcomes")
        self._writer = pq.ParquetWriter(self._path, _OUTCOMES)

    def record(self, problems: dict[int, str | None]) -> None:
        """Row position → why it was dropped, or None."""
        columns = {"position": list(problems), "problem": list(problems.values())}
        self._writer.write_table(pa.table(columns, schema=_OUTCOMES))

    def settle(self, ledger: Path) -> dict[str, int]:
        """Write the ledger; returns rows per outcome."""
        self._writer.close()
        paths = {"plan": literal(self._plan), "outcomes": literal(self._path), "ledger": literal(ledger)}
        with connect(self._plan.parent) as database:
            database.execute(_SETTLE.format(kept=KEPT, **paths))
            counted = database.execute(
                f"SELECT outcome, count(*) FROM read_parquet({paths['ledger']}) GROUP BY outcome ORDER BY outcome"
            ).fetchall()
        return dict(counted)


def _write_rows(rows: Iterable[TableRow], path: Path) -> None:
    with pq.ParquetWriter(path, _ROWS) as writer:
        batch: list[dict[str, Any]] = []
        for position, row in enumerate(rows):
            batch.append({"position": position, **asdict(row), **_addressed(row)})
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, _ROWS))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, _ROWS))


def _addressed(row: TableRow) -> dict[str, Any]:
    """The row's URL in its one spelling, its host, and its problem if nobody may ask for it."""
    if row.problem is not None or row.url.startswith(BASE_URL):
        return {"url": normalise_url(row.url), "host": ""}
    url = normalise_url(row.url)
    problem = refusal(url)
    return {"url": url, "host": "" if problem else host_of(url), "problem": problem}
