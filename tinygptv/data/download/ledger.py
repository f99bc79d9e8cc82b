"""The ledger: one row per table row, in table order, saying what became of it and when it is worth asking again.

Planning fills in what is known without fetching: rows that are no pairs, URLs nobody may ask for, later copies of an
earlier URL, and what the ledger of an earlier version says of a URL. What is left is fetched. Tables may be far larger
than memory, so rows stream to Parquet and DuckDB does what needs all of them at once.

States: `kept` is a sample; `retry` failed in a way that may pass; `failed` did not; `tombstone` is never asked again
(gone for good, or the owner objects); `refused` was never asked at all.
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
from tinygptv.data.fetch.guard import NEVER_AGAIN, TRANSIENT, FetchError, origin_of
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
"""What the database begins with; the rest is spilled."""

_PLAIN_URL = re.compile(
    r"https?://((?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,})"
    r"/(?!\.)(?:[A-Za-z0-9_~!$&()*+,;=:@-]|\.(?!/)|/(?!\.))*(?:\?[A-Za-z0-9_~!$&()*+,;=:@/.-]*)?"
)
"""URLs in their one spelling already: no dot segments, IDNA or port. Most are, and parsing takes six times as long."""

_DAY = 86_400
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 3600, 7 * _DAY
_FAILED_RETRY_SECONDS = 30 * _DAY
_MOST_HOSTS = 25

_PLACE = {"shard": "VARCHAR", "offset": "BIGINT", "length": "BIGINT"}
STORED_PICTURE = (
    *("width", "height", "sha256", "bytes", "original_width", "original_height", "original_format", "reencoded"),
    *("content_sha256", "phash", "hops", "final_host", *_PLACE),
)
"""What a sidecar says of a stored picture, whatever table it belongs to, and where it lies."""

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
"""What is read of an earlier ledger."""

_OUT_OF_REACH = """
SELECT address, any_value(outcome) AS outcome FROM (
    SELECT url AS address, outcome FROM before WHERE state = 'tombstone'
    UNION ALL SELECT final_url, outcome FROM before WHERE state = 'tombstone' AND final_url IS NOT NULL
) GROUP BY address
"""
"""Addresses that an answer put out of reach for good, be they asked for by a table or only redirected to."""

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
"""Rows that say the same of the same address as an earlier one. Found by hashes: texts would not fit into memory."""

_SHARED = """
CREATE TEMP TABLE shared AS
SELECT position, url_key FROM (
    SELECT position, url_key, count(*) OVER (PARTITION BY url_key) AS rows FROM keys ANTI JOIN copies USING (position)
) WHERE rows > 1
"""
"""Rows whose address other rows have, too, with other captions."""

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
GROUP BY ALL ORDER BY count(*) FILTER (state != 'kept') DESC, rows DESC, host LIMIT {most_hosts}
"""


@dataclass(frozen=True)
class Earlier:
    """An earlier version of the same source, whose answers count; `folder` holds its ledger, sidecar and shards.

    If its pictures were stored by other rules (`is_reusable` false), all of them are fetched again.
    """

    folder: Path
    is_reusable: bool


@dataclass(frozen=True)
class Settled:
    """What a download came to: rows by outcome, URLs by change since the earlier version, the hosts that lost most."""

    outcomes: dict[str, int]
    changes: dict[str, int]
    hosts: list[dict[str, Any]]


def make_plan(rows: Iterable[pa.RecordBatch], plan: Path, earlier: Earlier | None, forgotten: str) -> None:
    """Write `plan`: every row, with the `problem` that keeps it from being a sample or NULL, and whether it `is_asked`.

    Rows that differ in their captions alone are all samples: the first one is asked for, the others are the `same_as`
    it (its position). A row that an earlier version kept has in `stored` where its picture lies. `forgotten` is a
    predicate: what it names is not asked for. URLs keep their `__BASE_URL__`, so that neither the plan nor what follows
    from it depends on a port. An existing plan is kept: what an interrupted download has already fetched belongs to it.
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
    """The addresses that no redirect may lead to since the earlier version, and the outcome that says so."""
    with connect(folder) as database:
        _open_earlier(database, earlier)
        return database.execute(_OUT_OF_REACH).fetchall()


def planned(plan: Path) -> Iterator[dict[str, Any]]:
    """The plan's rows without a problem, in order."""
    for batch in parquet(plan).iter_batches(_BATCH_ROWS):
        yield from batch.filter(pc.is_null(batch["problem"])).to_pylist()


class Outcomes:
    """What became of the rows that were asked for, streamed to a file beside the plan."""

    def __init__(self, plan: Path, earlier: Earlier | None) -> None:
        self._plan, self._earlier, self._path = plan, earlier, plan.with_suffix(".outcomes")
        self._writer = pq.ParquetWriter(self._path, _OUTCOMES)
        self._rows = RowGroups(self._writer, _OUTCOMES)

    def record(self, row: Mapping[str, Any], result: Result) -> bool:
        """Note a planned row's result; whether the row is a sample, if only because its picture is still there."""
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

    def settle(self, ledger: Path, recheck_days: float) -> Settled:
        """Write the ledger and, beside it, the records that were no pairs as they stand in their tables."""
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
                "never_again": ", ".join(map(literal, sorted(NEVER_AGAIN))),
                "transient": ", ".join(map(literal, sorted(TRANSIENT))),
            }
            settle = _SETTLE.format(**paths, **waits, final_host=host_in_sql("final_url"))
            execute(database, settle, _MEMORY_BYTES)
            quarantine = literal(ledger.with_name(QUARANTINE))
            database.execute(_QUARANTINE.format(plan=paths["plan"], quarantine=quarantine))
            return Settled(
                dict(database.execute(_OUTCOME_COUNTS.format(**paths)).fetchall()),
                dict(database.execute(_CHANGES.format(**paths)).fetchall()),
                [
                    {"host": host, "rows": rows, "kept": kept, "outcomes": counts}
                    for host, rows, kept, counts in database.execute(
                        _HOSTS.format(**paths, most_hosts=_MOST_HOSTS)
                    ).fetchall()
                ],
            )


def _open_earlier(database: duckdb.DuckDBPyConnection, earlier: Earlier | None) -> None:
    """Views `before`, the earlier ledger, and `stored_pictures`, url → struct `stored`; empty if there is none."""
    kinds = SIDECAR_COLUMNS | _PLACE
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
            addressed = zip(*map(_addressed, batch["url"].to_pylist(), batch["problem"].to_pylist()), strict=True)
            urls, hosts, problems = map(texts, addressed)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {
                "position": pa.arange(position, position + batch.num_rows),
                "url": urls,
                "host": hosts,
                "problem": problems,
            }
            writer.write_table(pa.table(columns).select(_ROWS.names))
            position += batch.num_rows


def _addressed(url: str, problem: str | None) -> tuple[str, str | None, str | None]:
    """The row's URL in its one spelling, its host, and its problem, also if nobody may ask for it."""
    if problem is None and (plain := _PLAIN_URL.fullmatch(url)):
        return url, plain[1], None
    url = normalise_url(url)
    if problem is not None or url.startswith(BASE_URL):
        return url, None, problem
    try:
        return url, origin_of(url).host, None
    except FetchError as refused:
        return url, None, refused.failure
