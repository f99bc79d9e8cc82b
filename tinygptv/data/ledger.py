"""The ledger: one row per table row, in table order, saying what became of it.

Planning fills in what can be known without fetching: rows that are no pairs, URLs nobody may ask for, later copies of
an earlier URL, hosts that do not exist. What is left is fetched. Tables may be far larger than memory, so rows stream
to Parquet and DuckDB does what needs all of them at once.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.data.database import connect, literal
from tinygptv.data.guard import host_of, normalise_url, refusal, resolve_hosts
from tinygptv.data.readers import BASE_URL
from tinygptv.data.table_rows import ROWS

logger = logging.getLogger(__name__)

LEDGER, QUARANTINE = "ledger.parquet", "quarantine.parquet"
KEPT = "kept"
"""The outcome of a row that became a sample; every other outcome is the reason it was dropped."""

_ROWS = pa.schema([("position", pa.int64()), *ROWS, ("host", pa.string())])
_OUTCOMES = pa.schema([("position", pa.int64()), ("problem", pa.string())])
_BATCH_ROWS = 10_000
_RESOLVE_SECONDS, _RESOLVE_SECONDS_PER_HOST = 30.0, 0.1

_PLAN = """
COPY (
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY url, problem IS NULL ORDER BY position) AS copy
        FROM read_parquet({rows})
    )
    SELECT ranked.* EXCLUDE (copy, problem),
        coalesce(problem, CASE WHEN copy > 1 THEN 'duplicate_url' END, hosts.verdict) AS problem
    FROM ranked LEFT JOIN hosts ON ranked.host = hosts.name
    ORDER BY position
) TO {plan} (FORMAT parquet)
"""

_SETTLE = """
COPY (
    SELECT table_name, table_row, line, url, coalesce(plan.problem, outcomes.problem, '{kept}') AS outcome
    FROM read_parquet({plan}) AS plan LEFT JOIN read_parquet({outcomes}) AS outcomes USING (position)
    ORDER BY position
) TO {ledger} (FORMAT parquet, COMPRESSION zstd)
"""


_QUARANTINE = """
COPY (
    SELECT table_name, line, problem AS reason, found
    FROM read_parquet({plan}) WHERE found IS NOT NULL ORDER BY position
) TO {quarantine} (FORMAT parquet, COMPRESSION zstd)
"""


def make_plan(rows: Iterable[pa.RecordBatch], plan: Path, allow_private: bool) -> None:
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
        """Write the ledger and, beside it, the records that were no pairs as they stand in their tables; returns rows
        per outcome."""
        self._writer.close()
        paths = {"plan": literal(self._plan), "outcomes": literal(self._path), "ledger": literal(ledger)}
        quarantine = literal(ledger.with_name(QUARANTINE))
        with connect(self._plan.parent) as database:
            database.execute(_SETTLE.format(kept=KEPT, **paths))
            database.execute(_QUARANTINE.format(plan=paths["plan"], quarantine=quarantine))
            counted = database.execute(
                f"SELECT outcome, count(*) FROM read_parquet({paths['ledger']}) GROUP BY outcome ORDER BY outcome"
            ).fetchall()
        return dict(counted)


def _write_rows(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    position = 0
    with pq.ParquetWriter(path, _ROWS) as writer:
        for batch in batches:
            addressed = zip(*map(_addressed, batch["url"].to_pylist(), batch["problem"].to_pylist()), strict=True)
            urls, hosts, problems = (pa.array(values, pa.string()) for values in addressed)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {
                "position": pa.array(range(position, position + batch.num_rows)),
                "url": urls,
                "host": hosts,
                "problem": problems,
            }
            writer.write_table(pa.table(columns).select(_ROWS.names))
            position += batch.num_rows


def _addressed(url: str, problem: str | None) -> tuple[str, str, str | None]:
    """The row's URL in its one spelling, its host, and its problem, also if nobody may ask for it."""
    url = normalise_url(url)
    if problem is not None or url.startswith(BASE_URL):
        return url, "", problem
    problem = refusal(url)
    return url, "" if problem else host_of(url), problem
