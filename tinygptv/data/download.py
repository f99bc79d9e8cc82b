"""URL+caption tables → raw shards: plan, fetch what is worth fetching, and account for every row.

The engine is img2dataset, run as a process of its own (see `engine`, `fetching`). It stores what it fetched shard by
shard, so an interrupted download goes on where it stopped; when all is there the samples are written again, in table
order and under keys made of their URLs, so that the same answers from the web give the same bytes.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name, sha256_of
from tinygptv.data.fetching import Fetch
from tinygptv.data.guard import ALLOW_PRIVATE, FetchError, addresses, host_of, private_allowed, refusal
from tinygptv.data.ledger import KEPT, LEDGER, Outcomes, make_plan, to_fetch
from tinygptv.data.readers import BASE_URL, expand, read_table
from tinygptv.data.shapes.files import draw_corpus
from tinygptv.data.shapes.server import serve
from tinygptv.data.shards import ShardWriter, content_hash
from tinygptv.definitions.source import PairsSource, Table
from tinygptv.errors import DataError, DefinitionError
from tinygptv.locations import resolve

logger = logging.getLogger(__name__)

BASE_URL_VARIABLE = "TINYGPTV_BASE_URL"
_EMBEDDED = "embedded:"
_KEY_LENGTH = 20
_REASON = re.compile(r"[a-z][a-z0-9_]*")
_ALLOW_PRIVATE_ADVICE = (
    f"; set {ALLOW_PRIVATE}=1 or say `allow_private: true` in the source to fetch from private addresses on purpose"
)


def download(store: Store, source_name: str, source: PairsSource, *, base_url: str | None = None) -> Manifest:
    """`raw/<source>@<hash>`: shards, their sidecar, and the ledger of every row of the source's tables.

    `__BASE_URL__` in a URL is replaced by `base_url`, by $TINYGPTV_BASE_URL, or, for the embedded corpus, by the
    address of a server started for the while. Raises DefinitionError if it is needed and not given, DataError if a
    table cannot be read or not one image could be fetched, LaunchError if the engine fails or stands still.
    """
    corpus = draw_corpus(store) if any(table.location.startswith(_EMBEDDED) for table in source.tables) else None
    definition = _definition(source)
    parents = [corpus.artifact] if corpus else []

    def build(draft: Path) -> Outcome:
        with ExitStack() as stack:
            address = base_url or os.environ.get(BASE_URL_VARIABLE)
            if corpus is not None:
                address = stack.enter_context(serve(store.folder(corpus.artifact)))
            folder = (lambda: store.folder(corpus.artifact)) if corpus else None
            tables = [(table, resolve(table.location, folder)) for table in source.tables]
            return _build(draft, source_name, source, tables, address)

    return store.make(artifact_name(f"raw/{source_name}", definition, parents), "download", definition, parents, build)


def _definition(source: PairsSource) -> dict[str, Any]:
    """What the shards depend on: the tables' content wherever they lie, and how images are fetched and stored."""
    described = []
    for table in source.tables:
        embedded = table.location.startswith(_EMBEDDED)
        files = [table.location] if embedded else [_identity(path) for path in expand(resolve(table.location))]
        described.append(table.model_dump(exclude={"location"}) | {"files": files})
    return {
        "tables": described,
        "download": source.download.model_dump(exclude={"processes", "threads"}),
        "licence": source.licence,
        "allow_private": source.allow_private,
    }


def _identity(path: str) -> str:
    """A table's name and content, but not its place."""
    filesystem, inside = fsspec.url_to_fs(path)
    content = filesystem.ukey(inside) if "://" in path else sha256_of(Path(path))
    return f"{Path(path).name} {content}"


def _build(
    draft: Path, source_name: str, source: PairsSource, tables: list[tuple[Table, str]], base_url: str | None
) -> Outcome:
    allow_private = private_allowed(source.allow_private)
    scratch, chunk_rows = draft / "fetch", source.download.samples_per_shard
    plan = scratch / "plan.parquet"
    scratch.mkdir(exist_ok=True)
    if base_url is not None:
        _check_base_url(base_url, allow_private)
    make_plan(_rows(tables), plan, allow_private)
    fetch = Fetch(scratch, source.download, allow_private)
    for shard, rows in enumerate(to_fetch(plan, chunk_rows)):
        fetch.request(shard, {row["position"]: _address(row, base_url, source_name) for row in rows})
    fetch.run()
    outcomes = Outcomes(plan)
    with ShardWriter(draft, chunk_rows) as shards:
        for shard, rows in enumerate(to_fetch(plan, chunk_rows)):
            fetched = fetch.shard(shard)
            outcomes.record({position: _problem(image) for position, image in fetched.items()})
            for row in rows:
                if (image := fetched[row["position"]])["jpg"] is not None:
                    shards.write(_sidecar_row(row, image, source.licence), image["jpg"])
    counts = outcomes.settle(draft / LEDGER)
    shutil.rmtree(scratch)
    return _outcome(source_name, counts, shards.count)


def _rows(tables: list[tuple[Table, str]]) -> Iterator[pa.RecordBatch]:
    for table, resolved in tables:
        yield from read_table(table, resolved)


def _check_base_url(base_url: str, allow_private: bool) -> None:
    if problem := refusal(base_url):
        raise DefinitionError(f"base URL {base_url!r}: {problem}; want http://host:port or https://host/folder")
    try:
        addresses(host_of(base_url), allow_private)
    except FetchError as error:
        advice = _ALLOW_PRIVATE_ADVICE if str(error) == "private_address" else ""
        raise DefinitionError(f"base URL {base_url}: its host cannot be fetched from ({error}){advice}") from error


def _address(row: dict[str, Any], base_url: str | None, source_name: str) -> str:
    if not row["url"].startswith(BASE_URL):
        return str(row["url"])
    if base_url is None:
        raise DefinitionError(
            f"source '{source_name}': table {row['table_name']}, row {row['table_row']} has the URL {row['url']}, "
            f"but no base URL is given; set {BASE_URL_VARIABLE} to the address that serves these images"
        )
    return base_url.rstrip("/") + row["url"].removeprefix(BASE_URL)


def _problem(image: dict[str, Any]) -> str | None:
    """The name of what went wrong; an unforeseen exception's text is not one."""
    if image["jpg"] is not None:
        return None
    return image["error_message"] if _REASON.fullmatch(image["error_message"] or "") else "other"


def _sidecar_row(row: dict[str, Any], image: dict[str, Any], licence: str) -> dict[str, Any]:
    return row | {
        "key": hashlib.sha256(row["url"].encode()).hexdigest()[:_KEY_LENGTH],
        "width": image["width"],
        "height": image["height"],
        "sha256": content_hash(image["jpg"]),
        "bytes": len(image["jpg"]),
        "licence": row["licence"] or licence,
    }


def _outcome(source_name: str, counts: dict[str, int], kept: int) -> Outcome:
    """Every row is a sample or counted under the reason it is none. Raises DataError if there is no sample."""
    drops = {reason: count for reason, count in counts.items() if reason != KEPT}
    assert counts.get(KEPT, 0) == kept
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items(), key=lambda item: -item[1]))
    if not kept:
        advice = _ALLOW_PRIVATE_ADVICE if "private_address" in drops else ""
        raise DataError(
            f"source '{source_name}': not one of {sum(counts.values())} rows gave an image ({listed}){advice}"
        )
    logger.info("download %s: kept %d of %d (%s)", source_name, kept, sum(counts.values()), listed or "nothing dropped")
    return Outcome(rows_in=sum(counts.values()), rows_out=kept, drops=drops)
