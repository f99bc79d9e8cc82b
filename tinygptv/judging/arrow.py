"""The step `score`: the ratings of picture and caption by the chain's scorer, for every row of a source's raw shards.

Each shard's scores are a separate file until all are there, so an interrupted scoring resumes with the next shard.
Pairs that an earlier scoring with the same scorer contains are reused, so a refresh scores only what is new.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv import catalog
from tinygptv.data.filters.captions import describe
from tinygptv.data.filters.scores import SCHEMA, SCORES
from tinygptv.data.pictures.pixels import statistics
from tinygptv.data.shards.shards import content_hash, read_image, sidecar_rows
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.scorer import Blip2Scorer, OpenClipScorer
from tinygptv.errors import DefinitionError
from tinygptv.judging.earlier_scores import EarlierScores
from tinygptv.judging.judge import Judge
from tinygptv.judging.opening import open_judge
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, sha256_of
from tinygptv.store.locations import local_path

logger = logging.getLogger(__name__)

_COLUMNS = ["key", "caption", "shard", "offset", "length", "sha256"]
_PARTS = "parts"

Row = dict[str, Any]


def score_source(store: Store, source_name: str, chain: FilterChain, raw: Manifest) -> Manifest:
    """Make `scores/<source>@<hash>`: one row per row of `raw`, in its order, by the scorer that `chain` names.

    Captions are scored as cleaned by the chain. The definition includes the scorer and its files' content, so other
    weights give other scores. Raises DefinitionError if there is no such scorer, SetupError if its library is missing,
    HandoffError if its weights do not match the definition.
    """
    if chain.scores is None:
        raise DefinitionError(f"source '{source_name}': its filter has no scorer; add `scores: NAME`")
    scorer = catalog.scorer(chain.scores)
    described = describe(store, source_name, chain.captions, raw)
    definition = {"scorer": scorer.model_dump(exclude={"about", "batch"}), **_fingerprints(scorer)}
    parents = [raw.artifact, described.artifact]

    def build(draft: Path) -> Outcome:
        images, sidecar = store.folder(raw.artifact), store.folder(described.artifact)
        earlier = _earlier(store, source_name, definition)
        known = EarlierScores(store.file(earlier.artifact, SCORES) if earlier else None)
        judge = cache(lambda: open_judge(scorer))
        (draft / _PARTS).mkdir(exist_ok=True)
        parts = []
        for shard, rows in groupby(sidecar_rows(sidecar, _COLUMNS), key=itemgetter("shard")):
            parts.append(draft / _PARTS / f"{shard}.parquet")
            if not parts[-1].exists():
                table = _score(list(rows), images, known, judge, scorer.batch)
                _write(parts[-1], [table])
                logger.info("score %s: %s, %d rows", source_name, shard, len(table))
        _write(draft / SCORES, (pq.read_table(part) for part in parts))
        shutil.rmtree(draft / _PARTS)
        count = pq.read_metadata(draft / SCORES).num_rows
        return Outcome(rows_in=count, rows_out=count, details={"known_before": known.found})

    return store.make(artifact_name(f"scores/{source_name}", definition, parents), "score", definition, parents, build)


def _fingerprints(scorer: Blip2Scorer | OpenClipScorer) -> dict[str, Any]:
    """What scores depend on besides the definition: the content of the scorer's files, and the image transform."""
    paths = [local_path(location) for location in scorer.files]
    found = [path for place in paths for path in (sorted(place.iterdir()) if place.is_dir() else [place])]
    if isinstance(scorer, OpenClipScorer):
        transform: dict[str, Any] = {"open_clip": _version("open_clip_torch")}
    else:
        transform = statistics(scorer.vision_encoder.preprocessing)
    return {"files": {path.name: sha256_of(path) for path in found if path.is_file()}, "transform": transform}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _earlier(store: Store, source_name: str, definition: dict[str, Any]) -> Manifest | None:
    """The newest scores of this source by the same scorer, or None."""
    made = (store.find(name) for name in store.names(f"scores/{source_name}@"))
    alike = [one for one in made if one is not None and one.definition == definition]
    return max(alike, key=lambda one: one.created, default=None)


def _score(rows: list[Row], images: Path, known: EarlierScores, judge: Callable[[], Judge], batch: int) -> pa.Table:
    """Scores of one shard's rows in order: known ones are reused, the others computed."""
    pairs = [content_hash(f"{row['sha256']}\n{row['caption']}".encode()) for row in rows]
    said = known.find(pairs)
    unseen = [number for number, pair in enumerate(pairs) if pair not in said]
    for start in range(0, len(unseen), batch):
        numbers = unseen[start : start + batch]
        of_batch = [rows[number] for number in numbers]
        columns = judge().score([read_image(images, row) for row in of_batch], [row["caption"] for row in of_batch])
        for place, number in enumerate(numbers):
            said[pairs[number]] = {name: values[place] for name, values in columns.items()}
    written = [said[pair] | {"key": row["key"], "pair": pair} for row, pair in zip(rows, pairs, strict=True)]
    return pa.Table.from_pylist(written, SCHEMA)


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write a file atomically, with one row group per table."""
    partial = path.with_name(f"{path.name}.partial")
    with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.rename(path)
