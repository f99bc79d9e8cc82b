"""URL+caption tables → raw shards: plan, fetch what is worth fetching, and account for every row.

The engine is a process of its own (see `fetching`). It leaves what it fetched shard by shard, so an interrupted
download goes on where it stopped; meanwhile the samples are written in table order and under keys made of their URLs,
so that the same answers from the web give the same bytes. With an earlier version of the same source at hand only what
is new, due or changed crosses the network; the rest is copied as it is stored.
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
    Outcomes,
    Settled,
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
from tinygptv.data.fetch.results import Asked, Result, Results
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
Answered = tuple[dict[str, Any], Result | None]
"""A planned row, and what became of it, if it was asked for."""

_REMEMBERED_SHARDS = 8
"""Of which the results are at hand for further captions of a picture."""
_HOW_FAST = {"processes", "threads", "ray_workers", "connections_per_host", "requests_per_second_per_host"}
"""Settings that change when a picture arrives, but not which."""

_HOW_STORED = ("engine", "image_size", "max_pixels", "min_side", "max_aspect", "jpeg_quality", "animated")
"""Settings that a stored picture depends on."""

_ALLOW_PRIVATE_ADVICE = (
    f"; set {ALLOW_PRIVATE}=1 or say `allow_private: true` in the source to fetch from private addresses on purpose"
)


def download(
    store: Store,
    source_name: str,
    source: PairsSource,
    previous: Manifest | None = None,
    *,
    base_url: str | None = None,
) -> Manifest:
    """`raw/<source>@<hash>`: shards, their sidecar, and the ledger of every row of the source's tables.

    `previous` is an earlier version: what it kept is asked for under conditions, what it failed to get only when that
    is due, what it was told never to ask again not at all. The manifest's details hold `changes`, URLs by what became
    of them since then, and `hosts`, those that lost most.

    `__BASE_URL__` in a URL is replaced by `base_url`, by $TINYGPTV_BASE_URL, or, for the embedded corpus, by the
    address of a server started for the while. Raises DefinitionError if it is needed and not given, DataError if a
    table cannot be read or not one image could be fetched, LaunchError if the engine fails or stands still.
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
            return Building(source_name, source, address, earlier, tombstones(store)).run(draft, tables)

    return store.make(artifact_name(f"raw/{source_name}", definition, parents), "download", definition, parents, build)


def _definition(source: PairsSource) -> dict[str, Any]:
    """What the shards depend on: the tables' content wherever they lie, and how images are fetched and stored."""
    described = []
    for table in source.tables:
        embedded = table.location.startswith(_EMBEDDED)
        files = [table.location] if embedded else [_identity(file) for file in expand(resolve(table.location))]
        described.append(table.model_dump(exclude={"location"}) | {"files": files})
    return {
        "tables": described,
        "download": source.download.model_dump(exclude=_HOW_FAST),
        "licence": source.licence,
        "allow_private": source.allow_private,
    }


def _identity(file: TableFile) -> str:
    """A table's name and content, but not its place."""
    filesystem, inside = fsspec.url_to_fs(file.path)
    content = filesystem.ukey(inside) if "://" in file.path else sha256_of(Path(file.path))
    return f"{file.relative} {content}"


def _earlier(store: Store, definition: dict[str, Any], previous: Manifest) -> Earlier:
    before, now = previous.definition.get("download", {}), definition["download"]
    is_reusable = all(before.get(name) == now[name] for name in _HOW_STORED)
    return Earlier(store.folder(previous.artifact), is_reusable)


class Building:
    """One download into one draft folder. What is to be `forgotten` is not kept: pictures by their hash, as served or
    as stored, and whatever comes by way of an address or domain."""

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
        """Plan, fetch, write. What an earlier attempt left in the draft is used."""
        scratch, options = draft / "fetch", self._source.download
        plan = scratch / "plan.parquet"
        scratch.mkdir(exist_ok=True)
        if self._base_url is not None:
            _check_base_url(self._base_url, self._allow_private)
        if not (self._allow_private or options.contact or os.environ.get(CONTACT)):
            logger.warning("download %s: site owners cannot tell who asks; set %s", self._source_name, CONTACT)
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
                answered = progress.count("rows settled", _answered(plan, fetch, options.samples_per_shard))
                kept = self._write(draft, answered, outcomes, carried)
            progress.begin("writing the ledger")
            settled = outcomes.settle(draft / LEDGER, options.recheck_days)
        shutil.rmtree(scratch)
        return _outcome(self._source_name, settled, kept, carried)

    def _write(self, draft: Path, answered: Iterator[Answered], outcomes: Outcomes, carried: dict[str, str]) -> int:
        """The samples into shards, and what became of every row; how many samples there are."""
        with ShardWriter(draft, self._source.download.samples_per_shard, SIDECAR_COLUMNS | carried) as shards:
            for row, answer in answered:
                result = self._unless_forgotten(row, answer)
                if result is not None:
                    result = self._unbased(result)
                if result is None or outcomes.record(row, result):
                    sample, image = self._sample(row, result)
                    shards.write(sample | carried_values(row[CARRIED], carried), image)
        return shards.count

    def _refusals(self, scratch: Path) -> Refusals:
        """Where no redirect may lead."""
        gone = out_of_reach(self._earlier, scratch) if self._earlier else []
        forgotten = [(one.value, FORGOTTEN) for one in self._tombstones if one.kind == "url"]
        domains = [one.value for one in self._tombstones if one.kind == "domain"]
        return Refusals.of(((self._based(address), reason) for address, reason in [*gone, *forgotten]), domains)

    def _asked(self, row: dict[str, Any]) -> Asked:
        """How a planned row is asked for: under the conditions of the picture it has already, if any."""
        if row["stored"] is None:
            return Asked(row["position"], self._address(row))
        known = row["etag"], row["last_modified"], row["stored"]["content_sha256"]
        return Asked(row["position"], self._address(row), *known)

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
        """A URL with the base URL that is known now."""
        if self._base_url is None or not url.startswith(BASE_URL):
            return url
        return normalise_url(self._base_url + url.removeprefix(BASE_URL))

    def _unless_forgotten(self, row: dict[str, Any], result: Result | None) -> Result | None:
        """The result, or that its picture is not to be kept; None: the earlier version's stays without being asked."""
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
        """A result that does not depend on where the base URL's server happened to be."""
        if self._base_url is None or not result.hops:
            return result
        base = normalise_url(self._base_url).rstrip("/")
        hops = [BASE_URL + hop.removeprefix(base) if hop.startswith(f"{base}/") else hop for hop in result.hops]
        return replace(result, final_url=hops[-1], hops=hops)

    def _sample(self, row: dict[str, Any], result: Result | None) -> tuple[dict[str, Any], bytes]:
        """The sidecar row and the picture: as it was fetched now, or as the earlier version stored it."""
        if result is not None and result.jpeg:
            image = result.jpeg
            described = {name: getattr(result, name, None) for name in STORED_PICTURE}
            described |= {"sha256": content_hash(image), "bytes": len(image)}
        else:
            assert self._earlier is not None
            described = row["stored"]
            image = read_image(self._earlier.folder, described | {"key": _key(row)})
        about = {name: described[name] for name in STORED_PICTURE if name in SIDECAR_COLUMNS}
        if result is not None:  # also a picture that has not changed may come by another way than before
            about |= {"hops": result.hops, "final_host": host_of(result.hops[-1]) or None if result.hops else None}
        return row | about | {"key": _key(row), "licence": row["licence"] or self._source.licence}, image


def _key(row: dict[str, Any]) -> str:
    """Of the URL alone, or with the caption if an earlier row has the URL."""
    named = row["url"] if row["same_as"] is None else f"{row['url']}\n{row['caption']}"
    return hashlib.sha256(named.encode()).hexdigest()[:_KEY_LENGTH]


def _fetch(scratch: Path, options: Download, allow_private: bool, refusals: Refusals) -> "Fetch | RayFetch":
    if options.ray_workers is None:
        return Fetch(scratch, options, allow_private, refusals)
    from tinygptv.data.fetch.ray import RayFetch  # an extra that few need

    return RayFetch(scratch, options, allow_private, refusals)


def _answered(plan: Path, fetch: "Fetch | RayFetch", samples_per_shard: int) -> Iterator[Answered]:
    """Every planned row in order, with the result of its fetch, or None if its address was not asked for."""
    results: Results | None = None
    firsts: list[int] = []
    asked = 0
    with contextlib.closing(fetch.shards()) as shards:

        @lru_cache(maxsize=_REMEMBERED_SHARDS)
        def again(shard: int) -> Results:
            return fetch.results(shard)

        for row in planned(plan):
            if row["same_as"] is not None and row["is_due"]:
                result = again(bisect_right(firsts, row["same_as"]) - 1)[row["same_as"]]
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
        raise DefinitionError(f"base URL {base_url}: its host cannot be fetched from ({error}){advice}") from error


def _outcome(source_name: str, settled: Settled, kept: int, carried: Mapping[str, str]) -> Outcome:
    """Every row is a sample or counted under the reason it is none. Raises DataError if there is no sample."""
    rows = sum(settled.outcomes.values())
    drops = {reason: count for reason, count in settled.outcomes.items() if reason != KEPT}
    assert settled.outcomes.get(KEPT, 0) == kept
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items(), key=lambda item: -item[1]))
    if not kept:
        advice = _ALLOW_PRIVATE_ADVICE if "private_address" in drops else ""
        raise DataError(f"source '{source_name}': not one of {rows} rows gave an image ({listed}){advice}")
    logger.info("download %s: kept %d of %d (%s)", source_name, kept, rows, listed or "nothing dropped")
    details = {"changes": settled.changes, "hosts": settled.hosts} | ({"carried": dict(carried)} if carried else {})
    return Outcome(rows_in=rows, rows_out=kept, drops=drops, details=details)
