"""What models say of every row of a sidecar: the table that scoring leaves, and how a filter reads it.

One row per sidecar row, in the same order, so that joining them is reading both; keys are compared on the way.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv import catalog
from tinygptv.data.columns.arrow import parquet
from tinygptv.data.filters.captions import Describer, describe
from tinygptv.data.shards.shards import SIDECAR, column_schema
from tinygptv.definitions.filters import SCORE_COLUMNS, FilterChain
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name

SCORES = "scores.parquet"
EMBEDDING_WIDTH = 256

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("pair", pa.string()),
        ("itc", pa.float32()),
        ("itm", pa.float32()),
        ("clip", pa.float32()),
        ("recaption", pa.string()),
        ("recaption_itc", pa.float32()),
        ("recaption_itm", pa.float32()),
        ("embedding", pa.list_(pa.float16(), EMBEDDING_WIDTH)),
    ]
)
"""`pair` is the hash of what was scored, image and caption. What a scorer does not give is NULL."""

_BATCH_ROWS = 20_000
_JOINED = [name for name in SCHEMA.names if name != "embedding"]


def describe_rows(
    store: Store, source_name: str, chain: FilterChain, raw: Manifest, scores: Manifest | None
) -> Manifest:
    """What a chain's rules are asked about: the sidecar of `raw` with its captions cleaned and, if the chain names a
    scorer, with what that says. Raises DataError if scores are missing, or were made of other rows.
    """
    described = describe(store, source_name, chain.captions, raw)
    if chain.scores is None:
        return described
    if scores is None:
        raise DataError(f"{raw.artifact}: the chain asks for the scores of '{chain.scores}'; first run `score`")
    name = f"described/{source_name}-{chain.captions}-{chain.scores}"
    definition = {"better_caption": chain.better_caption}
    parents = [described.artifact, scores.artifact]
    describer = Describer(catalog.captions(chain.captions))

    def build(draft: Path) -> Outcome:
        sidecar, table = store.folder(described.artifact) / SIDECAR, store.folder(scores.artifact) / SCORES
        with parquet(sidecar) as rows, parquet(table) as said:
            schema = pa.unify_schemas([rows.schema_arrow, column_schema(SCORE_COLUMNS)])
            count, replaced = rows.metadata.num_rows, 0
            if count != said.metadata.num_rows:
                raise DataError(f"{table}: {said.metadata.num_rows} rows for the {count} of {sidecar}; remove it")
            batches = zip(rows.iter_batches(_BATCH_ROWS), said.iter_batches(_BATCH_ROWS, columns=_JOINED), strict=True)
            with pq.ParquetWriter(draft / SIDECAR, schema, compression="zstd") as joined:
                for batch, scored in batches:
                    if batch["key"] != scored["key"]:
                        raise DataError(f"{table}: its keys are not those of {sidecar}; remove it")
                    both = _joined(batch, scored, describer if chain.better_caption else None)
                    replaced += both["recaptioned"].true_count
                    joined.write_batch(both.cast(schema))
            return Outcome(rows_in=count, rows_out=count, details={"recaptioned": replaced})

    return store.make(artifact_name(name, definition, parents), "describe", definition, parents, build)


def _joined(rows: pa.RecordBatch, scored: pa.RecordBatch, describer: Describer | None) -> pa.RecordBatch:
    """Both, with the better caption of the two and its scores if there is somebody to tell its language."""
    columns = {name: rows[name] for name in rows.schema.names}
    columns |= {name: scored[name] for name in ("itc", "itm", "clip")}
    replaced = pa.array(np.zeros(len(rows), np.bool_))
    if describer is not None:
        replaced = pc.fill_null(pc.greater(scored["recaption_itm"], scored["itm"]), False)
        caption = pc.if_else(replaced, scored["recaption"], rows["caption"])
        columns |= {
            "caption": caption,
            "caption_raw": pc.coalesce(rows["caption_raw"], rows["caption"]),
            "language": pc.if_else(replaced, describer.language(caption), rows["language"]),
            "itc": pc.if_else(replaced, scored["recaption_itc"], scored["itc"]),
            "itm": pc.if_else(replaced, scored["recaption_itm"], scored["itm"]),
        }
    return pa.RecordBatch.from_pydict(columns | {"recaptioned": replaced})
