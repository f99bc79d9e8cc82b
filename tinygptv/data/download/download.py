"""Download URL+caption tables into raw shards: plan, fetch what is worth fetching, account for every row.

The engine runs in its own process (see `fetching`) and stores results shard by shard, so an interrupted download
resumes where it stopped. Samples are written in table order under keys derived from their URLs, so the same responses
give the same bytes. Given an earlier version of the source, only what is new, due or changed is fetched; the rest is
copied as stored.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa

from tinygptv.data.columns.urls import BASE_URL, host_of, normalise_url
from tinygptv.data.download.ledger import (
    KEPT,
    LEDGER,
    STORED_PICTURE,
    Earlier,
    LedgerSummary,
    Outcomes,
    make_plan,
    out_of_reach,
    planned,
)
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.guard import (
    ALLOW_PRIVATE,
    CONTACT,
    FetchError,
    addresses,
    check_addresses,
    private_allowed,
    refusal,
)
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import FetchRequest, Result, Results
from tinygptv.data.forget.forget import predicate
from tinygptv.data.forget.tombstones import Tombstone, tombstones
from tinygptv.data.shards.shards import ShardWriter, content_hash, read_image
from tinygptv.data.tables.carried import COLUMN as CARRIED
from tinygptv.data.tables.carried import carried_types, carried_values
from tinygptv.data.tables.readers import read_table
from tinygptv.data.tables.table_files import TableFile, expand
from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.definitions.source import Download, PairsSource, Table
from tinygptv.errors import DataError, DefinitionError
from tinygptv.shapes.files import draw_corpus
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, sha256_of
from tinygptv.store.locations import resolve
from tinygptv.store.progress import Progress, reporting

if TYPE_CHECKING:
    from tinygptv.data.fetch.ray import RayFetch

logger = logging.getLogger(__name__)

BASE_URL_VARIABLE = "TINYGPTV_BASE_URL"
_EMBEDDED = "embedded:"
_KEY_LENGTH = 20
RowResult = tuple[dict[str, Any], Result | None]
"""A planned row and the result of its fetch; None if its URL was not requested."""

_CACHED_SHARDS = 8
"""Shards whose results stay open for further captions of the same picture."""
_SPEED_SETTINGS = {"processes", "threads", "ray_workers", "connections_per_host", "requests_per_second_per_host"}
"""Settings that change how fast pictures arrive, but not which."""

_STORAGE_SETTINGS = ("engine", "image_size", "max_pixels", "min_side", "max_aspect", "jpeg_quality", "animated")
"""Settings that a stored picture depends on."""

_ALLOW_PRIVATE_ADVICE = (
    f"; set {ALLOW_PRIVATE}=1, or `allow_private: true` in the source, to fetch from private addresses on purpose"
)


def download(
    store: Store,
    source_name: str,
    source: PairsSource,
    previous: Manifest | None = None,
    *,
    base_url: str | None = None,
) -> Manifest:
    """Make `raw/<source>@<hash>`: shards, their sidecar, and a ledger with one row per table row.

    `previous` is an earlier version. Pictures it kept are requested conditionally, failures are retried only when due,
    and permanent refusals are never retried. The manifest's details hold `changes` (URLs by what changed since then)
    and `hosts` (those that lost most rows).

    `__BASE_URL__` in a URL is replaced by `base_url`, by $TINYGPTV_BASE_URL or, for the embedded corpus, by the address
    of a temporary server. Raises DefinitionError if it is needed and missing, DataError if a table cannot be read or
    no image could be fetched, LaunchError if the engine fails or stalls.
    """
    corpus = draw_corpus(store) if any(table.location.startswith(_EMBEDDED) for table in source.tables) else None
    definition = _definition(source)
    parents = [made.artifact for made in (corpus, previous) if made]

    def build(draft: Path) -> Outcome:
        with ExitStack() as stack:
            address = base_url or os.environ.get(BASE_URL_VARIABLE)
            if corpus is not None:
                address = stack.enter_context(serve(store.folder(corpus.artifact)))
            folder = (lambda: store.folder(corpus.artifact)) if corpus else None
            tables = [(table, resolve(table.location, folder)) for table in source.tables]
            earlier = _earlier(store, definition, previous) if previous else None
            return DownloadBuild(source_name, source, address, earlier, tombstones(store)).run(draft, tables)

    return store.make(artifact_name(f"raw/{source_name}", definition, parents), "download", definition, parents, build)


def _definition(source: PairsSource) -> dict[str, Any]:
    """What the shards depend on: the tables' content (not their location) and how images are fetched and stored."""
    described = []
    for table in source.tables:
        embedded = table.location.startswith(_EMBEDDED)
        files = [table.location] if embedded else [_identity(file) for file in expand(resolve(table.location))]
        described.append(table.model_dump(exclude={"location"}) | {"files": files})
    return {
        "tables": described,
        "download": source.download.model_dump(exclude=_SPEED_SETTINGS),
        "licence": source.licence,
        "allow_private": source.allow_private,
    }


def _identity(file: TableFile) -> str:
    """A table's name and content, without its location."""
    filesystem, inside = fsspec.url_to_fs(file.path)
    content = filesystem.ukey(inside) if "://" in file.path else sha256_of(Path(file.path))
    return f"{file.relative} {content}"


def _earlier(store: Store, definition: dict[str, Any], previous: Manifest) -> Earlier:
    before, now = previous.definition.get("download", {}), definition["download"]
    is_reusable = all(before.get(name) == now[name] for name in _STORAGE_SETTINGS)
    return Earlier(store.folder(previous.artifact), is_reusable)


class DownloadBuild:
    """One download into one draft folder.

    Pictures in `forgotten` are not kept, whether matched by hash (as served or as stored), by URL or by domain.
    """

    def __init__(
        self,
        source_name: str,
        source: PairsSource,
        base_url: str | None,
        earlier: Earlier | None,
        forgotten: Sequence[Tombstone] = (),
    ) -> None:
        self._source_name, self._source, self._earlier = source_name, source, earlier
        self._tombstones = forgotten
        self._forgotten = frozenset(one.value for one in forgotten if one.kind == "sha256")
        self._base_url = base_url.rstrip("/") if base_url else None
        self._allow_private = private_allowed(source.allow_private)

    def run(self, draft: Path, tables: list[tuple[Table, str]]) -> Outcome:
        """Plan, fetch, write; reuses what an earlier attempt left in the draft."""
        scratch, options = draft / "fetch", self._source.download
        plan = scratch / "plan.parquet"
        scratch.mkdir(exist_ok=True)
        if self._base_url is not None:
            _check_base_url(self._base_url, self._allow_private)
        if not (self._allow_private or options.contact or os.environ.get(CONTACT)):
            logger.warning("download %s: site owners cannot see who is crawling; set %s", self._source_name, CONTACT)
        forgotten = predicate(one for one in self._tombstones if one.kind != "sha256")
        progress = Progress(f"download {self._source_name}")
        with reporting(logger, progress.describe):
            with _fetch(scratch, options, self._allow_private, self._refusals(scratch)) as fetch:
                progress.begin("planning")
                rows = progress.count("rows of its tables read", _rows(tables), lambda batch: batch.num_rows)
                make_plan(rows, plan, self._earlier, forgotten)
                asked = (self._asked(row) for row in planned(plan) if row["is_asked"])
                while shard := list(islice(asked, options.samples_per_shard)):
                    fetch.request(shard)
                progress.begin("fetching")
                outcomes, carried = Outcomes(plan, self._earlier), carried_types(plan)
                row_results = progress.count("rows done", _row_results(plan, fetch, options.samples_per_shard))
                kept = self._write(draft, row_results, outcomes, carried)
            progress.begin("writing the ledger")
            summary = outcomes.write_ledger(draft / LEDGER, options.recheck_days)
        shutil.rmtree(scratch)
        return _outcome(self._source_name, summary, kept, carried)

    def _write(self, draft: Path, row_results: Iterator[RowResult], outcomes: Outcomes, carried: dict[str, str]) -> int:
        """Write the samples into shards and record every row's outcome. Returns the number of samples."""
        with ShardWriter(draft, self._source.download.samples_per_shard, SIDECAR_COLUMNS | carried) as shards:
            for row, answer in row_results:
                result = self._unless_forgotten(row, answer)
                if result is not None:
                    result = self._unbased(result)
                if result is None or outcomes.record(row, result):
                    sample, image = self._sample(row, result)
                    shards.write(sample | carried_values(row[CARRIED], carried), image)
        return shards.count

    def _refusals(self, scratch: Path) -> Refusals:
        """URLs and domains that no redirect may lead to."""
        gone = out_of_reach(self._earlier, scratch) if self._earlier else []
        forgotten = [(one.value, FORGOTTEN) for one in self._tombstones if one.kind == "url"]
        domains = [one.value for one in self._tombstones if one.kind == "domain"]
        return Refusals.of(((self._based(address), reason) for address, reason in [*gone, *forgotten]), domains)

    def _asked(self, row: dict[str, Any]) -> FetchRequest:
        """The request for a planned row; conditional if an earlier version stored its picture."""
        if row["stored"] is None:
            return FetchRequest(row["position"], self._address(row))
        known = row["etag"], row["last_modified"], row["stored"]["content_sha256"]
        return FetchRequest(row["position"], self._address(row), *known)

    def _address(self, row: dict[str, Any]) -> str:
        if not row["url"].startswith(BASE_URL):
            return str(row["url"])
        if self._base_url is None:
            raise DefinitionError(
                f"source '{self._source_name}': table {row['table_name']}, row {row['table_row']} has the URL "
                f"{row['url']}, but no base URL is given; set {BASE_URL_VARIABLE} to the address that serves these "
                "images"
            )
        return self._based(row["url"])

    def _based(self, url: str) -> str:
        """The URL with the current base URL filled in."""
        if self._base_url is None or not url.startswith(BASE_URL):
            return url
        return normalise_url(self._base_url + url.removeprefix(BASE_URL))

    def _unless_forgotten(self, row: dict[str, Any], result: Result | None) -> Result | None:
        """Replace a result whose picture must be forgotten by a failure. None: the stored picture is kept unasked."""
        if not self._forgotten:
            return result
        if result is not None and result.jpeg:
            hashes = {result.content_sha256, content_hash(result.jpeg)}
        else:
            hashes = {row["stored"]["content_sha256"], row["stored"]["sha256"]} if row["stored"] else set()
        if not hashes & self._forgotten:
            return result
        return replace(result or Result(row["position"]), failure=FORGOTTEN, is_unchanged=False, jpeg=b"")

    def _unbased(self, result: Result) -> Result:
        """Put `__BASE_URL__` back into a result, so that it does not depend on the server's address."""
        if self._base_url is None or not result.hops:
            return result
        base = normalise_url(self._base_url).rstrip("/")
        hops = [BASE_URL + hop.removeprefix(base) if hop.startswith(f"{base}/") else hop for hop in result.hops]
        return replace(result, final_url=hops[-1], hops=hops)

    def _sample(self, row: dict[str, Any], result: Result | None) -> tuple[dict[str, Any], bytes]:
        """The sidecar row and the picture, newly fetched or copied from the earlier version."""
        if result is not None and result.jpeg:
            image = result.jpeg
            described = {name: getattr(result, name, None) for name in STORED_PICTURE}
            described |= {"sha256": content_hash(image), "bytes": len(image)}
        else:
            assert self._earlier is not None
            described = row["stored"]
            image = read_image(self._earlier.folder, described | {"key": _key(row)})
        about = {name: described[name] for name in STORED_PICTURE if name in SIDECAR_COLUMNS}
        if result is not None:  # even an unchanged picture may have been reached by different redirects
            about |= {"hops": result.hops, "final_host": host_of(result.hops[-1]) or None if result.hops else None}
        return row | about | {"key": _key(row), "licence": row["licence"] or self._source.licence}, image


def _key(row: dict[str, Any]) -> str:
    """Hash of the URL, or of URL and caption if an earlier row has the same URL."""
    named = row["url"] if row["same_as"] is None else f"{row['url']}\n{row['caption']}"
    return hashlib.sha256(named.encode()).hexdigest()[:_KEY_LENGTH]


def _fetch(scratch: Path, options: Download, allow_private: bool, refusals: Refusals) -> "Fetch | RayFetch":
    if options.ray_workers is None:
        return Fetch(scratch, options, allow_private, refusals)
    from tinygptv.data.fetch.ray import RayFetch  # optional dependency

    return RayFetch(scratch, options, allow_private, refusals)


def _row_results(plan: Path, fetch: "Fetch | RayFetch", samples_per_shard: int) -> Iterator[RowResult]:
    """Yield every planned row in order with its fetch result, or None if its URL was not requested."""
    results: Results | None = None
    firsts: list[int] = []
    asked = 0
    with contextlib.closing(fetch.shards()) as shards:

        @lru_cache(maxsize=_CACHED_SHARDS)
        def cached_results(shard: int) -> Results:
            return fetch.results(shard)

        for row in planned(plan):
            if row["same_as"] is not None and row["is_due"]:
                result = cached_results(bisect_right(firsts, row["same_as"]) - 1)[row["same_as"]]
                yield row, replace(result, position=row["position"])
                continue
            if not row["is_asked"]:
                yield row, None
                continue
            if asked % samples_per_shard == 0:
                results = next(shards)
                firsts.append(row["position"])
            asked += 1
            assert results is not None
            yield row, results[row["position"]]


def _rows(tables: list[tuple[Table, str]]) -> Iterator[pa.RecordBatch]:
    for table, resolved in tables:
        yield from read_table(table, resolved)


def _check_base_url(base_url: str, allow_private: bool) -> None:
    if problem := refusal(base_url):
        raise DefinitionError(f"base URL {base_url!r}: {problem}; want http://host:port or https://host/folder")
    try:
        check_addresses(addresses(host_of(base_url)), allow_private)
    except FetchError as error:
        advice = _ALLOW_PRIVATE_ADVICE if str(error) == "private_address" else ""
        raise DefinitionError(f"base URL {base_url}: cannot fetch from its host ({error}){advice}") from error


def _outcome(source_name: str, summary: LedgerSummary, kept: int, carried: Mapping[str, str]) -> Outcome:
    """Count every row as a sample or under the reason it was dropped. Raises DataError if there is no sample."""
    rows = sum(summary.outcomes.values())
    drops = {reason: count for reason, count in summary.outcomes.items() if reason != KEPT}
    assert summary.outcomes.get(KEPT, 0) == kept
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items(), key=lambda item: -item[1]))
    if not kept:
        advice = _ALLOW_PRIVATE_ADVICE if "private_address" in drops else ""
        raise DataError(f"source '{source_name}': none of {rows} rows gave an image ({listed}){advice}")
    logger.info("download %s: kept %d of %d (%s)", source_name, kept, rows, listed or "nothing dropped")
    details = {"changes": summary.changes, "hosts": summary.hosts} | ({"carried": dict(carried)} if carried else {})
    return Outcome(rows_in=rows, rows_out=kept, drops=drops, details=details)
