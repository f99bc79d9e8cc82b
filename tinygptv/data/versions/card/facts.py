"""What a data card says, counted by DuckDB over the sidecars, the ledger and the dropped rows; as plain values."""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from tinygptv.data.columns.database import connect, literal, with_columns
from tinygptv.data.columns.urls import host_in_sql
from tinygptv.data.download.ledger import LEDGER
from tinygptv.data.filters.filtering import DROPPED
from tinygptv.data.forget.forget import matches, sidecar_view
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.data.versions.versions import Difference, diff, number_of, published
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Manifest, Store

_BINS = 24
_MOST_ROWS = 20
_OPT_OUTS = ("opted_out", "robots_disallowed")

_LEDGER_COLUMNS = dict.fromkeys(("url", "host", "final_host", "table_name", "outcome"), "VARCHAR")

_MEASURES = {
    "shorter side": ("px", "least(width, height)"),
    "longer over shorter side": ("", "greatest(width, height) / nullif(least(width, height), 0)"),
    "size": ("kB", "bytes / 1000"),
    "caption": ("words", "len(string_split(trim(caption), ' '))"),
    "similarity": ("", "similarity"),
    "image-text contrast": ("cosine", "itc"),
    "image-text matching": ("probability", "itm"),
    "CLIP": ("cosine", "clip"),
}
"""Name → unit and what is measured of each kept sample."""

_WHOLE = ("px", "words")
"""Units that come in whole numbers, and so do the bins."""


@dataclass(frozen=True)
class Histogram:
    """Counts of equally wide bins from `low` to `high`; the outermost per cent lies in the last ones. `median` and the
    counts are of the samples that have a value."""

    name: str
    unit: str
    low: float
    high: float
    median: float
    samples: int
    counts: list[int]


@dataclass(frozen=True)
class Share:
    """One table, host or licence: rows that were read, if known, and samples that were kept."""

    name: str
    kept: int
    percent: float
    read: int | None = None


@dataclass(frozen=True)
class Drop:
    """Rows lost for one reason; `alone` would be lost to this rule without the others, `only` to no other one."""

    step: str
    reason: str
    why: str
    dropped: int
    left: int
    alone: int | None = None
    only: int | None = None


@dataclass(frozen=True)
class Copies:
    """One picture or caption that was dropped `times` times, because it was there already."""

    reason: str
    times: int
    caption: str
    url: str


@dataclass(frozen=True)
class Removal:
    """One request to forget, and how many rows of the raw data it names. What it says is not repeated here."""

    kind: str
    why: str
    created: str
    samples: int


@dataclass(frozen=True)
class Facts:
    """All of it."""

    artifact: str
    source: str
    filter: str
    version: int | None
    created: str
    rows_in: int
    downloaded: int
    kept: int
    bytes: int
    host_count: int
    licences: list[Share]
    tables: list[Share]
    hosts: list[Share]
    histograms: list[Histogram]
    drops: list[Drop]
    idle_rules: list[str]
    copies: list[Copies]
    opt_outs: list[Share]
    removals: list[Removal]
    changes: dict[str, int] | None
    changed_since: int | None
    checks: dict[str, Any] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)


def gather(store: Store, filtered: Manifest) -> Facts:
    """Count everything. Raises DataError if the raw artifact it was filtered from is gone."""
    raw = store.find(next((name for name in filtered.parents if name.startswith("raw/")), ""))
    if raw is None:
        raise DataError(f"{filtered.artifact}: the raw data it was made from is gone, so its card cannot be written")
    name = filtered.artifact.removeprefix("filtered/").rpartition("@")[0]
    source = raw.artifact.removeprefix("raw/").rpartition("@")[0]
    before = _before(store, source, filtered)
    with connect(Path(tempfile.gettempdir())) as database:
        sidecar_view(database, "kept", store.file(filtered.artifact, SIDECAR))
        sidecar_view(database, "dropped", store.file(filtered.artifact, DROPPED))
        known = with_columns(_LEDGER_COLUMNS, store.file(raw.artifact, LEDGER))
        database.execute(f"CREATE VIEW ledger AS {known}")
        database.execute(
            f"CREATE VIEW reasons AS SELECT * FROM read_parquet({literal(store.file(filtered.artifact, DROPPED))})"
        )
        size, hosts = _row(database, f"SELECT coalesce(sum(bytes), 0)::BIGINT, count(DISTINCT {_HOST}) FROM kept")
        return Facts(
            artifact=filtered.artifact,
            source=source,
            filter=name.removeprefix(f"{source}-"),
            version=number_of(store, filtered.artifact),
            created=filtered.created,
            rows_in=raw.rows_in,
            downloaded=raw.rows_out,
            kept=filtered.rows_out,
            bytes=size,
            host_count=hosts,
            licences=_shares(database, "coalesce(licence, 'not stated')", filtered.rows_out),
            tables=_tables(database, filtered.rows_out),
            hosts=_shares(database, _HOST, filtered.rows_out),
            histograms=list(_histograms(database)),
            drops=list(_drops(raw, filtered)),
            idle_rules=[e["rule"] for e in filtered.details.get("funnel", []) if not e["dropped_first"]],
            copies=_copies(database, filtered),
            opt_outs=_opt_outs(database, raw.rows_in),
            removals=_removals(store, raw),
            changes=before[1].counts if before else None,
            changed_since=before[0] if before else None,
            checks={key: value for key, value in filtered.details.items() if key not in ("funnel", "tables")},
            parents=[*filtered.parents, *raw.parents],
        )


_HOST = f"coalesce(final_host, host, {host_in_sql('url')}, 'local')"
"""Of the server that answered, behind redirects."""


def as_json(facts: Facts) -> str:
    """The same for machines."""
    return json.dumps(facts, default=vars, indent=1, ensure_ascii=False)


def _before(store: Store, source: str, filtered: Manifest) -> tuple[int, Difference] | None:
    """The version published before this one, and what has changed since."""
    known = published(store, source).versions
    place = next((n for n, one in enumerate(known) if one.filtered == filtered.artifact), len(known))
    if place == 0 or store.find(known[place - 1].filtered) is None:
        return None
    return known[place - 1].number, diff(store, known[place - 1].filtered, filtered.artifact)


def _shares(database: duckdb.DuckDBPyConnection, what: str, kept: int) -> list[Share]:
    rows = database.execute(
        f"SELECT {what} AS name, count(*) FROM kept GROUP BY name ORDER BY count(*) DESC, name LIMIT {_MOST_ROWS}"
    ).fetchall()
    return [Share(str(name), count, _percent(count, kept)) for name, count in rows]


def _tables(database: duckdb.DuckDBPyConnection, kept: int) -> list[Share]:
    rows = database.execute(
        f"""SELECT table_name, count(*) FILTER (kept), count(*) FILTER (NOT kept) FROM (
            SELECT table_name, FALSE AS kept FROM ledger UNION ALL SELECT table_name, TRUE FROM kept)
        WHERE table_name IS NOT NULL GROUP BY table_name ORDER BY table_name LIMIT {_MOST_ROWS}"""
    ).fetchall()
    return [Share(name, count, _percent(count, kept), read) for name, count, read in rows]


def _histograms(database: duckdb.DuckDBPyConnection) -> Iterator[Histogram]:
    for name, (unit, measure) in _MEASURES.items():
        values = f"(SELECT ({measure})::DOUBLE AS value FROM kept) WHERE value IS NOT NULL"
        low, high, median, samples = _row(
            database,
            f"SELECT quantile_cont(value, 0.005), quantile_cont(value, 0.995), median(value), count(*) FROM {values}",
        )
        if not samples:
            continue
        width, bins = (high - low) / _BINS or 1.0, _BINS
        if unit in _WHOLE:
            low, width = math.floor(low), math.ceil((math.floor(high) - math.floor(low) + 1) / _BINS)
            bins = (math.floor(high) - low) // width + 1
        place = f"greatest(least(floor((value - {low}) / {width}), {bins - 1}), 0)::INTEGER"
        counted = dict(database.execute(f"SELECT {place} AS bin, count(*) FROM {values} GROUP BY bin").fetchall())
        counts = [counted.get(number, 0) for number in range(bins)]
        yield Histogram(name, unit, low, low + width * bins, median, samples, counts)


def _drops(raw: Manifest, filtered: Manifest) -> Iterator[Drop]:
    """Losses at reading and fetching, the largest first, then those of the filter's steps in their order."""
    left = raw.rows_in
    for reason, count in sorted(raw.drops.items(), key=lambda drop: -drop[1]):
        left -= count
        yield Drop("download", reason, "", count, left)
    told = {entry["rule"]: entry for entry in filtered.details.get("funnel", [])}
    for reason, count in filtered.drops.items():
        left -= count
        entry = told.get(reason, {})
        kind = str(entry.get("kind", "rule"))
        counts = entry.get("dropped_alone"), entry.get("dropped_only")
        yield Drop("filter" if kind == "rule" else kind, reason, entry.get("why", ""), count, left, *counts)


def _copies(database: duckdb.DuckDBPyConnection, filtered: Manifest) -> list[Copies]:
    """What was dropped most often as a copy of the same picture, or as a placeholder."""
    copying = ("duplicates", "placeholder")
    steps = [entry["rule"] for entry in filtered.details.get("funnel", []) if entry["kind"] in copying]
    rows = database.execute(
        f"""SELECT reason, count(*), min(caption), min(url) FROM reasons WHERE reason IN (SELECT unnest(?))
        GROUP BY reason, coalesce(phash::VARCHAR, sha256) ORDER BY count(*) DESC, min(url) LIMIT {_MOST_ROWS // 2}""",
        [steps],
    ).fetchall()
    return [Copies(*row) for row in rows]


def _opt_outs(database: duckdb.DuckDBPyConnection, rows_in: int) -> list[Share]:
    """Hosts whose owners objected, by rows that were not taken."""
    outcomes = ", ".join(map(literal, _OPT_OUTS))
    rows = database.execute(
        f"""SELECT {_HOST} AS name, count(*) FROM ledger
        WHERE outcome IN ({outcomes}) GROUP BY name ORDER BY count(*) DESC, name LIMIT {_MOST_ROWS}"""
    ).fetchall()
    return [Share(name, count, _percent(count, rows_in)) for name, count in rows]


def _removals(store: Store, raw: Manifest) -> list[Removal]:
    told = []
    for one in tombstones(store):
        told.append(Removal(one.kind, one.why, one.created, len(matches(store, raw.artifact, [one]))))
    return told


def _row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = database.execute(query).fetchone()
    assert row is not None
    return row


def _percent(part: int, whole: int) -> float:
    return round(100 * part / max(whole, 1), 2)
