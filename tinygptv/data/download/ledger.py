"""The ledger: one row per table row, in table order, with its outcome and when to ask again.

Planning decides what it can without fetching: rows that are not pairs, URLs that must not be requested, duplicate URLs,
and URLs whose outcome an earlier ledger knows. The rest is fetched. Tables may be far larger than memory, so rows
stream to Parquet and DuckDB does what needs all of them at once.

States: `kept` is a sample; `retry` failed in a way that may pass; `failed` did not pass; `tombstone` is never requested
again (gone for good, or the owner objects); `refused` was never requested.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv.data.columns.arrow import RowGroups, parquet, texts
from tinygptv.data.columns.database import connect, execute, literal, with_columns
from tinygptv.data.columns.urls import BASE_URL, host_in_sql, normalise_url
from tinygptv.data.fetch.guard import PERMANENT, TRANSIENT, FetchError, origin_of
from tinygptv.data.fetch.results import Result
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.data.tables.table_rows import ROWS
from tinygptv.definitions.filters import SIDECAR_COLUMNS

logger = logging.getLogger(__name__)

LEDGER, QUARANTINE = "ledger.parquet", "quarantine.parquet"
KEPT = "kept"
"""The outcome of a row that became a sample; every other outcome is the reason it was dropped."""

_ROWS = pa.schema([("position", pa.int64()), *ROWS, ("host", pa.string())])
_OUTCOMES = pa.schema(
    [
        ("position", pa.int64()),
        ("outcome", pa.string()),
        ("change", pa.string()),
        ("failure", pa.string()),
        ("status", pa.int32()),
        ("tries", pa.int32()),
        ("retry_after", pa.float64()),
        ("final_url", pa.string()),
        ("hops", pa.list_(pa.string())),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("content_sha256", pa.string()),
        ("phash", pa.int64()),
    ]
)
_BATCH_ROWS = 10_000
_MEMORY_BYTES = 128 << 20
"""Initial memory limit of the database; the rest spills to disk."""

_PLAIN_URL = re.compile(
    r"https?://((?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,})"
    r"/(?!\.)(?:[A-Za-z0-9_~!$&()*+,;=:@-]|\.(?!/)|/(?!\.))*(?:\?[A-Za-z0-9_~!$&()*+,;=:@/.-]*)?"
)
"""URLs that are already normalised (no dot segments, IDNA or port). Most are, and parsing takes six times as long."""

_DAY = 86_400
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 3600, 7 * _DAY
_FAILED_RETRY_SECONDS = 30 * _DAY
_MAX_HOSTS = 25

_LOCATION = {"shard": "VARCHAR", "offset": "BIGINT", "length": "BIGINT"}
STORED_PICTURE = (
    *("width", "height", "sha256", "bytes", "original_width", "original_height", "original_format", "reencoded"),
    *("content_sha256", "phash", "hops", "final_host", *_LOCATION),
)
"""Sidecar columns that describe a stored picture and its location, independent of the table row."""

_LEDGER_COLUMNS = {
    "position": "BIGINT",
    "url": "VARCHAR",
    "host": "VARCHAR",
    "state": "VARCHAR",
    "outcome": "VARCHAR",
    "status": "INTEGER",
    "attempts": "BIGINT",
    "checked_at": "BIGINT",
    "next_try": "BIGINT",
    "etag": "VARCHAR",
    "last_modified": "VARCHAR",
    "content_sha256": "VARCHAR",
    "phash": "BIGINT",
    "final_url": "VARCHAR",
    "hops": "VARCHAR[]",
}
"""Columns read from an earlier ledger."""

_OUT_OF_REACH = """
SELECT address, any_value(outcome) AS outcome FROM (
    SELECT url AS address, outcome FROM before WHERE state = 'tombstone'
    UNION ALL SELECT final_url, outcome FROM before WHERE state = 'tombstone' AND final_url IS NOT NULL
) GROUP BY address
"""
"""URLs that are gone for good, whether a table named them or a redirect led to them."""

_KEYS = """
CREATE TEMP TABLE keys AS
SELECT position, md5_number(url) AS url_key, md5_number(url || chr(10) || caption) AS pair_key
FROM read_parquet({rows}) WHERE problem IS NULL
"""
_COPIES = """
CREATE TEMP TABLE copies AS
SELECT position FROM (
    SELECT position, row_number() OVER (PARTITION BY pair_key ORDER BY position) AS copy FROM keys
) WHERE copy > 1
"""
"""Rows that repeat URL and caption of an earlier row. Found by hash: the texts would not fit into memory."""

_SHARED = """
CREATE TEMP TABLE shared AS
SELECT position, url_key FROM (
    SELECT position, url_key, count(*) OVER (PARTITION BY url_key) AS rows FROM keys ANTI JOIN copies USING (position)
) WHERE rows > 1
"""
"""Rows that share their URL with other rows but differ in the caption."""

_JUDGED = """
CREATE TEMP VIEW judged AS
WITH out_of_reach AS ({out_of_reach}), redirected AS (
    SELECT url, any_value(out_of_reach.outcome) AS outcome_on_the_way
    FROM (SELECT url, unnest(hops) AS address FROM before WHERE hops IS NOT NULL) JOIN out_of_reach USING (address)
    GROUP BY url
), earlier AS (
    SELECT DISTINCT ON (url) url, state, outcome AS earlier_outcome, attempts, checked_at, next_try, etag,
        last_modified, final_url AS earlier_final_url, hops, stored, outcome_on_the_way
    FROM before LEFT JOIN stored_pictures USING (url) LEFT JOIN redirected USING (url)
    WHERE state != 'refused' AND (state != 'kept' OR stored IS NOT NULL) ORDER BY position
), known AS (
    SELECT table_rows.* EXCLUDE (problem), earlier.* EXCLUDE (url), out_of_reach.outcome AS outcome_of_address,
        coalesce(problem, CASE WHEN copies.position IS NOT NULL THEN 'duplicate_url' END) AS problem
    FROM read_parquet({rows}) AS table_rows LEFT JOIN copies USING (position)
    LEFT JOIN earlier ON table_rows.url = earlier.url AND problem IS NULL
    LEFT JOIN out_of_reach ON table_rows.url = out_of_reach.address AND problem IS NULL
), judged AS (
    SELECT * EXCLUDE (problem, earlier_outcome, outcome_on_the_way, outcome_of_address),
        coalesce(
            problem,
            CASE WHEN {forgotten} THEN 'forgotten' END,
            outcome_of_address,
            outcome_on_the_way,
            CASE WHEN state != 'kept' AND next_try > {now} THEN earlier_outcome END
        ) AS problem
    FROM known
)
SELECT *, problem IS NULL AND NOT coalesce(state = 'kept' AND next_try > {now}, FALSE) AS is_due FROM judged
"""

_FOLLOWERS = """
CREATE TEMP TABLE followers AS
SELECT position, first FROM (
    SELECT position, min(position) OVER (PARTITION BY url_key) AS first
    FROM judged JOIN shared USING (position) WHERE problem IS NULL
) WHERE position != first
"""

_PLAN = """
COPY (
    SELECT judged.*, is_due AND first IS NULL AS is_asked, first AS same_as
    FROM judged LEFT JOIN followers USING (position) ORDER BY position
) TO {plan} (FORMAT parquet, ROW_GROUP_SIZE 20000)
"""

_SETTLE = """
COPY (
    WITH joined AS (
        SELECT plan.position, table_name, table_row, line, plan.url, host, plan.state AS before_state,
            coalesce(answers.outcome, problem, 'kept') AS outcome,
            CASE WHEN answers.position IS NOT NULL THEN answers.change
                WHEN plan.state = 'tombstone' THEN 'never_asked'
                WHEN plan.state IS NOT NULL THEN 'not_due' END AS change,
            answers.position IS NOT NULL AS is_answered, failure, status, tries, retry_after,
            CASE WHEN NOT is_answered THEN attempts WHEN failure IS NULL THEN 0 ELSE coalesce(attempts, 0) + 1 END
                AS attempts,
            CASE WHEN is_answered THEN {now} ELSE checked_at END AS checked_at,
            CASE WHEN is_answered THEN answers.final_url ELSE plan.earlier_final_url END AS final_url,
            CASE WHEN is_answered THEN answers.hops ELSE plan.hops END AS hops,
            next_try, coalesce(answers.etag, plan.etag) AS etag,
            coalesce(answers.last_modified, plan.last_modified) AS last_modified,
            coalesce(answers.content_sha256, stored.content_sha256) AS content_sha256,
            coalesce(answers.phash, stored.phash) AS phash
        FROM read_parquet({plan}) AS plan LEFT JOIN read_parquet({outcomes}) AS answers USING (position)
    ), stated AS (
        SELECT *, CASE WHEN outcome = 'kept' THEN 'kept'
            WHEN NOT is_answered THEN coalesce(nullif(before_state, 'kept'), 'refused')
            WHEN outcome IN ({never_again}) THEN 'tombstone'
            WHEN outcome IN ({transient}) THEN 'retry'
            ELSE 'failed' END AS state
        FROM joined
    )
    SELECT position, table_name, table_row, line, url, host, outcome, state, change, failure, status, tries, attempts,
        checked_at,
        CASE WHEN NOT is_answered THEN next_try
            WHEN state = 'kept' THEN checked_at + {recheck_seconds}
            WHEN state = 'failed' THEN checked_at + {failed_seconds}
            WHEN state = 'retry' THEN checked_at + greatest(coalesce(retry_after, 0)::BIGINT,
                least({longest_seconds}, {first_seconds} * 2 ** least(attempts - 1, 20))::BIGINT)
            END AS next_try,
        final_url, {final_host} AS final_host, hops, etag, last_modified, content_sha256, phash
    FROM stated
    UNION ALL BY NAME
    SELECT DISTINCT ON (url) url, host, outcome, state, 'never_asked' AS change, status, attempts, checked_at,
        final_url, {final_host} AS final_host, hops, content_sha256, phash
    FROM before WHERE state = 'tombstone' AND url NOT IN (SELECT url FROM stated)
    ORDER BY position NULLS LAST, url
) TO {ledger} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20000)
"""

_QUARANTINE = """
COPY (
    SELECT table_name, line, problem AS reason, found
    FROM read_parquet({plan}) WHERE found IS NOT NULL ORDER BY position
) TO {quarantine} (FORMAT parquet, COMPRESSION zstd)
"""

_OUTCOME_COUNTS = """
SELECT outcome, count(*) FROM read_parquet({ledger}) WHERE position IS NOT NULL GROUP BY outcome ORDER BY outcome
"""

_CHANGES = """
SELECT change, count(*) FROM (
    SELECT change FROM read_parquet({ledger}) WHERE change IS NOT NULL
    UNION ALL
    SELECT 'gone' FROM before WHERE position IS NOT NULL AND state != 'refused'
        AND url NOT IN (SELECT url FROM read_parquet({ledger}) WHERE position IS NOT NULL)
) GROUP BY change ORDER BY change
"""

_HOSTS = """
SELECT coalesce(final_host, host) AS host, count(*) AS rows, count(*) FILTER (state = 'kept') AS kept,
    histogram(outcome) AS outcomes
FROM read_parquet({ledger}) WHERE host IS NOT NULL AND position IS NOT NULL
GROUP BY ALL ORDER BY count(*) FILTER (state != 'kept') DESC, rows DESC, host LIMIT {max_hosts}
"""


@dataclass(frozen=True)
class Earlier:
    """An earlier version of the same source; `folder` holds its ledger, sidecar and shards.

    If its pictures were stored under other settings (`is_reusable` is false), all of them are fetched again.
    """

    folder: Path
    is_reusable: bool


@dataclass(frozen=True)
class LedgerSummary:
    """A download's totals: rows by outcome, URLs by change since the earlier version, the hosts that lost most rows."""

    outcomes: dict[str, int]
    changes: dict[str, int]
    hosts: list[dict[str, Any]]


def make_plan(rows: Iterable[pa.RecordBatch], plan: Path, earlier: Earlier | None, forgotten: str) -> None:
    """Write `plan`: every row, the `problem` that rules it out (or NULL), and whether its URL `is_asked`.

    Rows that differ only in their captions are all samples: the first is requested, the others point to its position in
    `same_as`. `stored` locates the picture of a row that an earlier version kept. `forgotten` is a SQL predicate for
    rows that must not be requested. URLs keep their `__BASE_URL__`, so that nothing depends on a port. An existing plan
    is kept, because what an interrupted download has fetched belongs to it.
    """
    if plan.exists():
        return
    written, partial = plan.with_suffix(".rows"), plan.with_suffix(".partial")
    with connect(plan.parent) as database:
        _write_rows(rows, written)
        _open_earlier(database, earlier)
        values = {"rows": literal(written), "plan": literal(partial), "forgotten": forgotten, "now": int(time.time())}
        for step in (_KEYS, _COPIES, _SHARED, _JUDGED, _FOLLOWERS, _PLAN):
            execute(database, step.format(**values, out_of_reach=_OUT_OF_REACH), _MEMORY_BYTES)
    written.unlink()
    partial.rename(plan)


def out_of_reach(earlier: Earlier, folder: Path) -> list[tuple[str, str]]:
    """The URLs that no redirect may lead to since the earlier version, each with the outcome that says so."""
    with connect(folder) as database:
        _open_earlier(database, earlier)
        return database.execute(_OUT_OF_REACH).fetchall()


def planned(plan: Path) -> Iterator[dict[str, Any]]:
    """The plan's rows without a problem, in order."""
    for batch in parquet(plan).iter_batches(_BATCH_ROWS):
        yield from batch.filter(pc.is_null(batch["problem"])).to_pylist()


class Outcomes:
    """Outcomes of the requested rows, streamed to a file next to the plan."""

    def __init__(self, plan: Path, earlier: Earlier | None) -> None:
        self._plan, self._earlier, self._path = plan, earlier, plan.with_suffix(".outcomes")
        self._writer = pq.ParquetWriter(self._path, _OUTCOMES)
        self._rows = RowGroups(self._writer, _OUTCOMES)

    def record(self, row: Mapping[str, Any], result: Result) -> bool:
        """Record a row's result. Returns whether the row is a sample, possibly because its old picture is kept."""
        was_kept = row["stored"] is not None
        stays = was_kept and (result.is_unchanged or result.failure in TRANSIENT)
        outcome = KEPT if stays else result.failure or KEPT
        if was_kept:
            change = "unchanged" if result.is_unchanged else "unreachable" if stays else "changed"
            change = "lost" if outcome != KEPT else change
        else:
            change = "new" if row["state"] is None else "retried"
        facts = {name: getattr(result, name) for name in _OUTCOMES.names if hasattr(result, name)}
        self._rows.add(facts | {"outcome": outcome, "change": change, "tries": result.attempts})
        return outcome == KEPT

    def write_ledger(self, ledger: Path, recheck_days: float) -> LedgerSummary:
        """Write the ledger and, next to it, the quarantine: records that are not pairs, as their tables have them."""
        self._rows.finish()
        self._writer.close()
        with connect(self._plan.parent) as database:
            _open_earlier(database, self._earlier)
            paths = {"plan": literal(self._plan), "outcomes": literal(self._path), "ledger": literal(ledger)}
            waits = {
                "recheck_seconds": int(recheck_days * _DAY),
                "failed_seconds": _FAILED_RETRY_SECONDS,
                "first_seconds": _FIRST_RETRY_SECONDS,
                "longest_seconds": _LAST_RETRY_SECONDS,
                "now": int(time.time()),
                "never_again": ", ".join(map(literal, sorted(PERMANENT))),
                "transient": ", ".join(map(literal, sorted(TRANSIENT))),
            }
            query = _SETTLE.format(**paths, **waits, final_host=host_in_sql("final_url"))
            execute(database, query, _MEMORY_BYTES)
            quarantine = literal(ledger.with_name(QUARANTINE))
            database.execute(_QUARANTINE.format(plan=paths["plan"], quarantine=quarantine))
            return LedgerSummary(
                dict(database.execute(_OUTCOME_COUNTS.format(**paths)).fetchall()),
                dict(database.execute(_CHANGES.format(**paths)).fetchall()),
                [
                    {"host": host, "rows": rows, "kept": kept, "outcomes": counts}
                    for host, rows, kept, counts in database.execute(
                        _HOSTS.format(**paths, max_hosts=_MAX_HOSTS)
                    ).fetchall()
                ],
            )


def _open_earlier(database: duckdb.DuckDBPyConnection, earlier: Earlier | None) -> None:
    """Create the views `before` (earlier ledger) and `stored_pictures` (url, struct `stored`); empty without one."""
    kinds = SIDECAR_COLUMNS | _LOCATION
    columns = {name: kinds[name] for name in ("key", "url", *STORED_PICTURE)}
    pictures = ", ".join(f'"{name}" := "{name}"' for name in STORED_PICTURE)
    ledger = earlier.folder / LEDGER if earlier else None
    sidecar = earlier.folder / SIDECAR if earlier and earlier.is_reusable else None
    database.execute(f"CREATE VIEW before AS {with_columns(_LEDGER_COLUMNS, ledger)}")
    database.execute(
        f"""CREATE VIEW stored_pictures AS
        SELECT DISTINCT ON (url) url, struct_pack({pictures}) AS stored FROM ({with_columns(columns, sidecar)})
        ORDER BY key"""
    )


def _write_rows(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    position = 0
    with pq.ParquetWriter(path, _ROWS) as writer:
        for batch in batches:
            normalised = zip(*map(_normalised, batch["url"].to_pylist(), batch["problem"].to_pylist()), strict=True)
            urls, hosts, problems = map(texts, normalised)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {
                "position": pa.arange(position, position + batch.num_rows),
                "url": urls,
                "host": hosts,
                "problem": problems,
            }
            writer.write_table(pa.table(columns).select(_ROWS.names))
            position += batch.num_rows


def _normalised(url: str, problem: str | None) -> tuple[str, str | None, str | None]:
    """A row's normalised URL, its host, and its problem, including a URL that must not be requested."""
    if problem is None and (plain := _PLAIN_URL.fullmatch(url)):
        return url, plain[1], None
    url = normalise_url(url)
    if problem is not None or url.startswith(BASE_URL):
        return url, None, problem
    try:
        return url, origin_of(url).host, None
    except FetchError as refused:
        return url, None, refused.failure
