"""Raw shards → filtered shards: what no rule and no comparison drops.

A dropped row is counted under the first step that drops it. Beside that the funnel says what each drops alone and what
only it drops, because a rule that drops nothing on its own can go, and one that drops much on its own should be looked
at: `gallery/` keeps some pictures of both sides.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv import catalog
from tinygptv.data.columns.arrow import numbers, parquet
from tinygptv.data.columns.database import connect
from tinygptv.data.columns.scripts import TEXT_MACROS, TEXT_MACROS_VERSION
from tinygptv.data.filters.decontamination import fingerprints
from tinygptv.data.filters.gallery import DROPPED, write_gallery
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import KEPT, Judgement, judge
from tinygptv.data.filters.scores import SCORES, describe_rows
from tinygptv.data.forget.forget import without_forgotten
from tinygptv.data.pictures.likeness import LOOK_VERSION
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, carried_columns, read_image
from tinygptv.definitions.filters import Deduplicate, FilterChain, Placeholder, Rule, Step
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError, did_you_mean
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.progress import Progress, reporting

logger = logging.getLogger(__name__)

_SAMPLES_PER_SHARD = 1000
_BATCH_ROWS = 1000
_UNKNOWN_COLUMN = re.compile(r'Referenced column "([^"]+)" not found')


def filter_source(
    store: Store,
    source_name: str,
    filter_name: str,
    raw: Manifest,
    first_tombstones: int | None = None,
    *,
    benchmarks: Mapping[str, AnnotationsSource] = MappingProxyType({}),
    earlier: Sequence[Manifest] = (),
    scores: Manifest | None = None,
) -> Manifest:
    """`filtered/<source>-<filter>@<hash>`: shards of the kept rows, `dropped.parquet` with a reason per row, a gallery.

    What the `first_tombstones`, or all, name is dropped first; what one of `benchmarks`, by source name, holds as well,
    or one of the `earlier` raw or filtered artifacts, is dropped too. `scores` is what the chain's scorer says of
    `raw`. The manifest's details hold `funnel`, one entry per step in order, `tables`, rows in and kept per table, and
    `in_benchmarks`, how rows were recognised as theirs.
    Raises DefinitionError if a predicate cannot be evaluated, DataError if scores are missing, or if nothing or too
    little is left.
    """
    chain = without_forgotten(store, catalog.filter_chain(filter_name), raw, first_tombstones)
    carried = _carried(store, raw)
    check_chain(filter_name, chain, carried)
    held_out = [fingerprints(store, *each) for each in sorted(benchmarks.items())] if chain.decontaminate else []
    described = describe_rows(store, source_name, chain, raw, scores)
    definition = chain.model_dump() | {
        "samples_per_shard": _SAMPLES_PER_SHARD,
        "text_macros": TEXT_MACROS_VERSION,
        "looks": LOOK_VERSION,
    }
    name = f"{source_name}-{filter_name}"
    parents = [made.artifact for made in (raw, described, *held_out, *earlier, *([scores] if scores else []))]

    def build(draft: Path) -> Outcome:
        progress = Progress(f"filter {name}")
        with reporting(logger, progress.describe):
            return filter_into(draft, progress)

    def filter_into(draft: Path, progress: Progress) -> Outcome:
        sidecar, images = store.folder(described.artifact) / SIDECAR, store.folder(raw.artifact)
        progress.begin(f"judging {described.rows_out:,} rows")
        with connect(draft) as database:
            table = store.file(scores.artifact, SCORES) if scores else None
            rows = Rows(database, sidecar, images, [store.folder(made.artifact) for made in earlier], scores=table)
            count = _check_keys(rows, images)
            judgement = judge(rows, chain, [store.folder(made.artifact) for made in held_out])
            drops = {entry["rule"]: entry["dropped_first"] for entry in judgement.funnel if entry["dropped_first"]}
            _check_what_is_left(name, count, drops, chain.max_drop_fraction)
        progress.begin("writing")
        tables = _write(judgement, chain.columns | (carried or {}), sidecar, images, draft, progress)
        write_gallery(draft, images)
        kept = count - sum(drops.values())
        listed = ", ".join(f"{reason} {dropped}" for reason, dropped in drops.items()) or "nothing dropped"
        logger.info("filter %s: kept %d of %d (%s)", name, kept, count, listed)
        details = {"funnel": judgement.funnel, "tables": tables, "in_benchmarks": judgement.in_benchmarks}
        details |= {"carried": carried} if carried else {}
        return Outcome(rows_in=count, rows_out=kept, drops=drops, details=details)

    return store.make(artifact_name(f"filtered/{name}", definition, parents), "filter", definition, parents, build)


def check_chain(filter_name: str, chain: FilterChain, carried: Mapping[str, str] | None = MappingProxyType({})) -> None:
    """Evaluate every expression of a chain on an empty sidecar; `carried` are its columns beyond the usual ones, or
    None if there are some and it is not known which.

    Raises DefinitionError, naming the rule.
    """
    known = {**chain.columns, **(carried or {})}
    columns = ", ".join(f'"{name}" {kind}' for name, kind in known.items())
    with duckdb.connect(config={"enable_external_access": "false"}) as database:
        database.execute(TEXT_MACROS)
        database.execute(f"CREATE TABLE sidecar ({columns})")
        for step in (*chain.rules, *chain.steps):
            where = f"datasets/filters/{filter_name}.yaml, {step.name}"
            try:
                gives = [str(kind) for kind in database.sql(_probe(step)).types]
            except (duckdb.Error, ValueError) as error:
                if carried is None and _UNKNOWN_COLUMN.search(str(error)):
                    continue
                raise DefinitionError(f"{where}: {error}\n{_advice(str(error), known)}") from error
            if isinstance(step, Rule) and gives != ["BOOLEAN"]:
                raise DefinitionError(f"{where}: `{step.keep}` gives {gives[0]}, not true or false; write a comparison")
            if isinstance(step, Deduplicate) and step.within is not None and gives[0] != "BIGINT":
                raise DefinitionError(f"{where}: `{step.by}` gives {gives[0]}; `within` needs a 64-bit hash, as phash")


def _carried(store: Store, raw: Manifest) -> dict[str, str] | None:
    """The columns that the source of `raw` took along; None if it is only planned and will take some."""
    if store.find(raw.artifact) is not None:
        return carried_columns(store.file(raw.artifact, SIDECAR))
    return None if any(table.get("carry") for table in raw.definition.get("tables", [])) else {}


def _advice(error: str, known: Mapping[str, str]) -> str:
    unknown = _UNKNOWN_COLUMN.search(error)
    nearest = f"{did_you_mean(unknown[1], known)} " if unknown else ""
    listed = ", ".join(known)
    return f"{nearest}The sidecar has {listed}; more columns of a table are there if its source lists them in `carry`"


def _probe(step: Rule | Step) -> str:
    match step:
        case Rule():
            return f"SELECT ({step.keep}) FROM sidecar"
        case Deduplicate(at_least=float()):
            return f"SELECT row_number() OVER (ORDER BY {step.order}) FROM sidecar"
        case Deduplicate():
            return (
                f"SELECT ({step.by}), row_number() OVER (PARTITION BY ({step.by}) ORDER BY {step.order}) FROM sidecar"
            )
        case Placeholder():
            return f"SELECT ({step.by}) FROM sidecar"
        case _:
            return "SELECT 1"


def _check_keys(rows: Rows, raw: Path) -> int:
    """How many rows there are. Raises DataError if two share a key."""
    keys = rows.dealt("SELECT hash(key) AS code FROM rows WHERE NOT earlier")
    twice = sum(len(some) - len(np.unique(numbers(some, "code"))) for some in keys)
    if twice:
        raise DataError(f"{raw}: {twice} keys occur twice; remove this folder to have it made again")
    return rows.count


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


def _write(
    judgement: Judgement, columns: Mapping[str, str], sidecar: Path, raw: Path, draft: Path, progress: Progress
) -> dict[str, dict[str, int]]:
    """Write the kept samples and the dropped rows, in the order of the sidecar; rows in and kept, by table."""
    names = pa.array([None, *(step.name for step in judgement.steps)])
    rows_in: Counter[str] = Counter()
    rows_kept: Counter[str] = Counter()
    first = 0
    with parquet(sidecar) as file, ShardWriter(draft, _SAMPLES_PER_SHARD, columns) as shards:
        schema = file.schema_arrow.append(pa.field("reason", pa.string()))
        with pq.ParquetWriter(draft / DROPPED, schema, compression="zstd") as dropped:
            for batch in progress.count("rows written", file.iter_batches(_BATCH_ROWS), len):
                verdicts = judgement.verdicts[first : first + batch.num_rows]
                first += batch.num_rows
                is_kept = pa.array(verdicts == KEPT)
                kept = batch.filter(is_kept)
                for row in kept.to_pylist():
                    shards.write(row, read_image(raw, row))
                reasons = names.take(pa.array(verdicts.astype(np.int32)))
                dropped.write_batch(batch.append_column("reason", reasons).filter(pc.invert(is_kept)))
                rows_in.update(batch["table_name"].to_pylist())
                rows_kept.update(kept["table_name"].to_pylist())
    return {table: {"in": rows_in[table], "kept": rows_kept[table]} for table in sorted(rows_in, key=str)}
