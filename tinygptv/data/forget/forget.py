"""What tombstones name: rows of a sidecar, as SQL; samples of a mixture, as a mask."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from tinygptv.data.columns.database import connect, literal, with_columns
from tinygptv.data.columns.urls import host_in_sql
from tinygptv.data.forget.tombstones import Tombstone, caption_patterns, image_endings, tombstones
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.filters import SCORE_COLUMNS, SIDECAR_COLUMNS, FilterChain, Rule
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.store.artifacts import Manifest, Store


def predicate(wanted: Iterable[Tombstone]) -> str:
    """SQL over a sidecar row: TRUE if a tombstone names it, or an address it came by, else FALSE."""
    values: dict[str, list[str]] = {"url": [], "domain": [], "sha256": [], "caption": [], "image": []}
    for one in wanted:
        values[one.kind].append(one.value)
    hosts = f"list_prepend(coalesce(host, {host_in_sql('url')}), [{host_in_sql('hop')} FOR hop IN coalesce(hops, [])])"
    terms = [_any(hosts, f"ends_with('.' || item, {literal('.' + domain)})") for domain in values["domain"]]
    if values["url"]:
        terms.append(_any("hops", f"item IN ({', '.join(map(literal, values['url']))})"))
    terms += [f"{_matches('caption', one)} OR {_matches('caption_raw', one)}" for one in values["caption"]]
    for column, kind in (("url", "url"), ("sha256", "sha256"), ("content_sha256", "sha256")):
        if values[kind]:
            terms.append(f"coalesce({column}, '') IN ({', '.join(map(literal, values[kind]))})")
    return " OR ".join(f"coalesce({term}, FALSE)" for term in terms) or "FALSE"


def without_forgotten(store: Store, chain: FilterChain, raw: Manifest, first: int | None) -> FilterChain:
    """The chain with a leading rule for the tombstones that name a row of `raw`; unchanged if none does."""
    concerned = [one for one in tombstones(store, first) if _count(store, raw, predicate([one]))]
    if not concerned:
        return chain
    rule = Rule(name=FORGOTTEN, keep=f"NOT ({predicate(concerned)})", why="somebody asked for its removal")
    return chain.model_copy(update={"rules": [rule, *chain.rules]})


def masked_rows(store: Store, mixture: str, samples: Path, wanted: Sequence[Tombstone]) -> NDArray[np.bool_]:
    """Which rows of a mixture's table no reader may see, in the table's order.

    Curated pairs are judged by their sidecar; annotated samples, which have no address, by their texts and by where
    their images lie.
    """
    manifest = store.find(mixture)
    parents = [name for name in (manifest.parents if manifest else []) if name.startswith("filtered/")]
    terms = [*map(_said, caption_patterns(wanted)), *map(_shown, image_endings(wanted))]
    with connect(Path(tempfile.gettempdir())) as database:
        database.execute("CREATE TABLE pairs (root VARCHAR, key VARCHAR)")
        for parent in parents:
            sidecar_view(database, "sidecar", store.file(parent, SIDECAR))
            database.execute(f"INSERT INTO pairs SELECT {literal(parent)}, key FROM sidecar WHERE {predicate(wanted)}")
        answer = database.execute(
            f"""SELECT pairs.key IS NOT NULL
                OR (coalesce(samples.root, '') NOT LIKE 'filtered/%' AND ({" OR ".join(terms) or "FALSE"})) AS masked
            FROM (
                SELECT *, images[1].root AS root, file_row_number
                FROM read_parquet({literal(samples)}, file_row_number = TRUE)
            ) AS samples
            LEFT JOIN pairs USING (root, key) ORDER BY samples.file_row_number"""
        )
        return np.asarray(answer.fetchnumpy()["masked"], dtype=np.bool_)


def sidecar_view(database: duckdb.DuckDBPyConnection, name: str, sidecar: Path | None) -> None:
    """A view of a sidecar with every column there can be, NULL where an older one has none; empty without a file."""
    known = with_columns(SIDECAR_COLUMNS | SCORE_COLUMNS, sidecar)
    database.execute(f"CREATE OR REPLACE VIEW {name} AS {known}")


def matches(store: Store, artifact: str, wanted: Sequence[Tombstone]) -> list[str]:
    """The keys of a raw or filtered artifact's samples that tombstones name, sorted."""
    return keys_named(store.file(artifact, SIDECAR), wanted)


def keys_named(sidecar: Path, wanted: Sequence[Tombstone]) -> list[str]:
    """The keys of a sidecar's rows that tombstones name, sorted."""
    with duckdb.connect() as database:
        sidecar_view(database, "sidecar", sidecar)
        found = database.execute(f"SELECT key FROM sidecar WHERE {predicate(wanted)} ORDER BY key").fetchall()
    return [key for (key,) in found]


def _count(store: Store, raw: Manifest, condition: str) -> int:
    if store.find(raw.artifact) is None:
        return 0
    with duckdb.connect() as database:
        sidecar_view(database, "sidecar", store.file(raw.artifact, SIDECAR))
        (count,) = database.execute(f"SELECT count(*) FROM sidecar WHERE {condition}").fetchone() or (0,)
    return int(count)


def _any(items: str, condition: str) -> str:
    """Whether a list has an `item` that fulfils a condition."""
    return f"len(list_filter({items}, lambda item: {condition})) > 0"


def _matches(column: str, pattern: str) -> str:
    return f"regexp_matches({column}, {literal(pattern)})"


def _said(pattern: str) -> str:
    """Whether a sample's turns, as one text, have the pattern somewhere."""
    lines = "list_transform(turns, lambda turn: turn.instruction || chr(10) || turn.answer)"
    return f"regexp_matches(array_to_string({lines}, chr(10)), {literal(pattern)})"


def _shown(ending: str) -> str:
    """Whether one of a sample's images lies at a place that ends so."""
    place = "replace('/' || image.root || '/' || image.path, ':', '/')"
    return f"len(list_filter(images, lambda image: ends_with({place}, {literal(ending)}))) > 0"
