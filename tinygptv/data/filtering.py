"""Raw shards → filtered shards: DuckDB judges every sidecar row by every rule in one pass.

A dropped row is counted under the first rule it fails. Beside that the funnel says what each rule drops alone and what
only it drops, because a rule that drops nothing on its own can go, and one that drops much on its own should be looked
at: `gallery/` keeps some pictures of both sides.
"""

import logging
from pathlib import Path
from typing import Any

import duckdb

from tinygptv import catalog
from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.data.database import connect, literal
from tinygptv.data.forget import without_forgotten
from tinygptv.data.gallery import write_gallery
from tinygptv.data.shards import SIDECAR, ShardWriter, read_image
from tinygptv.definitions.filters import SIDECAR_COLUMNS, Deduplicate, FilterChain, Rule
from tinygptv.errors import DataError, DefinitionError

logger = logging.getLogger(__name__)

DROPPED = "dropped.parquet"
_SAMPLES_PER_SHARD = 1000
_MOST_RULES = 62
_BATCH_ROWS = 1000
_STORED_ORDER = 'shard, "offset"'
_FIRST = "count(*) FILTER (reason = ?)"


def filter_source(
    store: Store, source_name: str, filter_name: str, raw: Manifest, first_tombstones: int | None = None
) -> Manifest:
    """`filtered/<source>-<filter>@<hash>`: shards of the kept rows, `dropped.parquet` with a reason per row, a gallery.

    What the `first_tombstones`, or all, name is dropped first. The manifest's details hold `funnel`, one entry per rule
    in order, and `tables`, rows in and kept per table. Raises DefinitionError if a predicate cannot be evaluated,
    DataError if nothing or too little is left.
    """
    chain = without_forgotten(store, catalog.filter_chain(filter_name), raw, first_tombstones)
    check_chain(filter_name, chain)
    definition = chain.model_dump() | {"samples_per_shard": _SAMPLES_PER_SHARD}
    name = f"{source_name}-{filter_name}"
    artifact = artifact_name(f"filtered/{name}", definition, [raw.artifact])

    def build(draft: Path) -> Outcome:
        with connect(draft) as database:
            return _filter(database, chain, name, store.folder(raw.artifact), draft)

    return store.make(artifact, "filter", definition, [raw.artifact], build)


def check_chain(filter_name: str, chain: FilterChain) -> None:
    """Evaluate every expression of a chain on an empty sidecar. Raises DefinitionError, naming the rule."""
    columns = ", ".join(f"{name} {kind}" for name, kind in SIDECAR_COLUMNS.items())
    with duckdb.connect(config={"enable_external_access": "false"}) as database:
        database.execute(f"CREATE TABLE sidecar ({columns})")
        steps: list[Rule | Deduplicate] = [*chain.rules, *chain.duplicates]
        for step in steps:
            where = f"datasets/filters/{filter_name}.yaml, {step.name}"
            try:
                (gives,) = database.sql(_probe(step)).types
            except (duckdb.Error, ValueError) as error:
                raise DefinitionError(f"{where}: {error}\nThe sidecar has {', '.join(SIDECAR_COLUMNS)}") from error
            if isinstance(step, Rule) and str(gives) != "BOOLEAN":
                raise DefinitionError(f"{where}: `{step.keep}` gives {gives}, not true or false; write a comparison")
    if len(chain.rules) > _MOST_RULES:
        raise DefinitionError(f"datasets/filters/{filter_name}.yaml, rules: at most {_MOST_RULES} in one chain")


def _probe(step: Rule | Deduplicate) -> str:
    if isinstance(step, Rule):
        return f"SELECT ({step.keep}) FROM sidecar"
    return f"SELECT row_number() OVER (PARTITION BY {step.by} ORDER BY {step.order}) FROM sidecar"


def _filter(database: duckdb.DuckDBPyConnection, chain: FilterChain, name: str, raw: Path, draft: Path) -> Outcome:
    _judge(database, chain, raw)
    total, distinct = _one(database, "SELECT count(*), count(DISTINCT key) FROM judged")
    if distinct != total:
        raise DataError(f"{raw}: {total - distinct} keys occur twice; remove this folder to have it made again")
    funnel = [*_rule_funnel(database, chain), *_duplicate_funnel(database, chain)]
    drops = {entry["rule"]: entry["dropped_first"] for entry in funnel if entry["dropped_first"]}
    _check_what_is_left(name, total, drops, chain.max_drop_fraction)
    tables = database.execute(
        "SELECT table_name, count(*), count(*) FILTER (reason IS NULL) FROM judged GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    database.execute(
        f"COPY (SELECT * EXCLUDE (failed) FROM judged WHERE reason IS NOT NULL ORDER BY {_STORED_ORDER}) "
        f"TO {literal(draft / DROPPED)} (FORMAT parquet, COMPRESSION zstd)"
    )
    write_gallery(draft / "gallery", database, raw)
    kept = _write_kept(database, raw, draft)
    assert kept == total - sum(drops.values())
    listed = ", ".join(f"{reason} {count}" for reason, count in drops.items())
    logger.info("filter %s: kept %d of %d (%s)", name, kept, total, listed or "nothing dropped")
    by_table = {table: {"in": rows, "kept": rows_kept} for table, rows, rows_kept in tables}
    return Outcome(rows_in=total, rows_out=kept, drops=drops, details={"funnel": funnel, "tables": by_table})


def _judge(database: duckdb.DuckDBPyConnection, chain: FilterChain, raw: Path) -> None:
    """Make the table `judged`: the sidecar, with `failed` (bit i is set where rule i does not hold) and `reason`, the
    step that drops the row, or NULL."""
    bits = [f"(CASE WHEN ({rule.keep}) THEN 0 ELSE {1 << bit} END)" for bit, rule in enumerate(chain.rules)]
    reasons = [f"WHEN failed & {1 << bit} != 0 THEN {literal(rule.name)}" for bit, rule in enumerate(chain.rules)]
    failed = " + ".join(bits) or "0"
    database.execute(
        f"""CREATE TABLE judged AS
        WITH rows AS (SELECT *, ({failed})::BIGINT AS failed FROM read_parquet({literal(raw / SIDECAR)}))
        SELECT *, CASE {" ".join(reasons)} WHEN FALSE THEN '' END AS reason FROM rows"""
    )
    for step in chain.duplicates:
        database.execute(
            f"""UPDATE judged SET reason = {literal(step.name)} WHERE key IN (
                SELECT key FROM judged WHERE reason IS NULL QUALIFY {_is_copy(step)})"""
        )


def _is_copy(step: Deduplicate) -> str:
    return f"row_number() OVER (PARTITION BY {step.by} ORDER BY {step.order}) > 1"


def _rule_funnel(database: duckdb.DuckDBPyConnection, chain: FilterChain) -> list[dict[str, Any]]:
    return [
        _entry(rule, "rule", _one(database, f"SELECT {_FIRST}, {alone}, {only} FROM judged", rule.name))
        for bit, rule in enumerate(chain.rules)
        for alone, only in [(f"count(*) FILTER (failed & {1 << bit} != 0)", f"count(*) FILTER (failed = {1 << bit})")]
    ]


def _duplicate_funnel(database: duckdb.DuckDBPyConnection, chain: FilterChain) -> list[dict[str, Any]]:
    """`dropped_only`: rows that pass every rule and are a copy in the eyes of this step and no other."""
    entries = []
    for step in chain.duplicates:
        others = [f"NOT ({_is_copy(other)})" for other in chain.duplicates if other is not step]
        (first,) = _one(database, f"SELECT {_FIRST} FROM judged", step.name)
        (alone,) = _one(database, f"SELECT count(*) FROM (SELECT 1 FROM judged QUALIFY {_is_copy(step)})")
        only_copy = " AND ".join([_is_copy(step), *others])
        (only,) = _one(database, f"SELECT count(*) FROM (SELECT 1 FROM judged WHERE failed = 0 QUALIFY {only_copy})")
        entries.append(_entry(step, "duplicates", (first, alone, only)))
    return entries


def _entry(step: Rule | Deduplicate, kind: str, counts: tuple[int, ...]) -> dict[str, Any]:
    counted = zip(("dropped_first", "dropped_alone", "dropped_only"), counts, strict=True)
    return {"rule": step.name, "why": step.why, "kind": kind, **dict(counted)}


def _one(database: duckdb.DuckDBPyConnection, query: str, *values: str) -> tuple[int, ...]:
    row = database.execute(query, values).fetchone()
    assert row is not None
    return tuple(row)


def _check_what_is_left(name: str, total: int, drops: dict[str, int], max_drop_fraction: float) -> None:
    dropped = sum(drops.values())
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items(), key=lambda item: -item[1]))
    if dropped == total:
        raise DataError(
            f"filter {name}: nothing is left of {total} rows ({listed}); loosen these rules or look at the source"
        )
    if dropped / total > max_drop_fraction:
        raise DataError(
            f"filter {name}: {dropped} of {total} rows dropped ({listed}), more than max_drop_fraction "
            f"{max_drop_fraction:g} allows; look at the source, or raise it if this is meant"
        )


def _write_kept(database: duckdb.DuckDBPyConnection, raw: Path, draft: Path) -> int:
    names = [*SIDECAR_COLUMNS, "shard", "offset", "length"]
    quoted = ", ".join(f'"{name}"' for name in names)
    rows = database.execute(f"SELECT {quoted} FROM judged WHERE reason IS NULL ORDER BY {_STORED_ORDER}")
    with ShardWriter(draft, _SAMPLES_PER_SHARD) as shards:
        while batch := rows.fetchmany(_BATCH_ROWS):
            for values in batch:
                row = dict(zip(names, values, strict=True))
                shards.write(row, read_image(raw, row))
    return shards.count
