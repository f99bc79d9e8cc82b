"""Which rows are copies or placeholders: prepared once per step, then queried for any set of rows.

DuckDB finds the few rows that have a match. Which of them to drop depends on the rows still present, and is decided on
arrays. Rows of earlier sidecars always sort first.
"""

import tempfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.columns.arrays_on_disk import ArraysOnDisk, RecordFile
from tinygptv.data.columns.arrow import numbers
from tinygptv.data.columns.connected_components import connected_components, neighbours
from tinygptv.data.columns.hamming import CodeFile
from tinygptv.data.filters.matches import Marks, marked, matching_rows, repeated
from tinygptv.data.filters.rows import LOCATION_COLUMNS, Positions, Rows
from tinygptv.data.pictures.similarity import COLOURS_BYTES, DETAIL_BYTES, Bytes, Signature, matches_any, signature
from tinygptv.definitions.filters import Deduplicate, Placeholder

Present = Callable[[Positions], NDArray[np.bool_]]
"""Returns which of the given rows are present."""

_URL_HASH = "hash(coalesce(url, key))"
_CAPTION_HASH = "hash(lower(coalesce(caption, key)))"
_NEEDS = "url key caption"
_COPIES = f"""
SELECT position::UINTEGER AS position, (min(position) OVER (PARTITION BY same))::UINTEGER AS first,
    {_URL_HASH} AS url_hash, {_CAPTION_HASH} AS caption_hash
FROM matches ORDER BY first, earlier DESC, {{order}}, position
"""
_PLACEHOLDERS = f"""
SELECT unnest(flatten(list(positions))) AS position FROM (
    SELECT same, list(position) AS positions, list_sort(list_distinct(list(hash(caption)))) AS caption_hashes
    FROM matches GROUP BY same, {_URL_HASH}
) GROUP BY same HAVING count(DISTINCT caption_hashes) >= {{captions}}
"""
_VALUES = "SELECT position, {by} AS value, hash({by}) AS code FROM rows WHERE {by} IS NOT NULL"
_IN_ORDER = f"""
SELECT position::UINTEGER AS position, same, {_URL_HASH} AS url_hash, {_CAPTION_HASH} AS caption_hash
FROM matches ORDER BY earlier DESC, {{order}}, position
"""

_ROWS_PER_PIECE = 25_000
"""Rows per piece whose colour signatures are in memory at once; detail signatures stay on disk."""


class Comparison(ABC):
    """One prepared comparison step."""

    @abstractmethod
    def dropped(self, present: Present) -> Iterator[Positions]:
        """Yield the positions of rows that the step drops, in pieces, considering only the `present` rows.

        Removing the rows of one piece before asking for the next does not change the result.
        """


def compare(rows: Rows, step: Deduplicate | Placeholder) -> Comparison:
    """Prepare the step for these rows."""
    if isinstance(step, Placeholder):
        return Fixed(_placeholders(rows, step))
    return EqualCopies(rows, step) if step.within is None else NearCopies(rows, step, step.within)


class Fixed(Comparison):
    """Rows that are dropped regardless of which others are present."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions

    def dropped(self, present: Present) -> Iterator[Positions]:
        """The listed rows that are present."""
        yield self._positions[present(self._positions)]


class EqualCopies(Comparison):
    """Of rows with equal values, drops all but the first; rows with its URL but another caption are kept, because they
    caption the same picture."""

    def __init__(self, rows: Rows, step: Deduplicate) -> None:
        self._groups = ArraysOnDisk(rows.spill / f"copies-{step.name}")
        for _ in matching_rows(rows, f"({step.by})", f"{step.order} {_NEEDS}"):
            found = rows.columns(_COPIES.format(order=step.order))
            self._groups.append(*(found[name] for name in ("position", "first", "url_hash", "caption_hash")))

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Per group, all but the first present row and the other captions of its URL."""
        for columns in self._groups:
            is_there = present(columns[0])
            positions, group, url_hash, caption_hash = (column[is_there] for column in columns)
            begins = np.append(True, group[1:] != group[:-1])[: len(group)]
            survivor = np.flatnonzero(begins)[np.cumsum(begins) - 1]
            same_url = np.flatnonzero(url_hash == url_hash[survivor])
            _, firsts = np.unique(
                np.stack([group[same_url].astype(np.uint64), caption_hash[same_url]]), axis=1, return_index=True
            )
            yield np.delete(positions, same_url[firsts])


class NearCopies(Comparison):
    """Drops near-duplicates greedily: in order, a row survives unless it is a copy of a survivor.

    So every dropped row has a survivor that looks the same, which connected components alone would not guarantee. Rows
    are compared within their connected component of near hashes; rows of different components cannot be copies.
    """

    def __init__(self, rows: Rows, step: Deduplicate, within: int) -> None:
        by = f"({step.by})"
        marks, pairs = _near(rows, by, within)
        self._near = neighbours(pairs)
        self._confirm = step.confirm
        self._groups = ArraysOnDisk(rows.spill / f"near-{step.name}")
        self._details = RecordFile(rows.spill / f"details-{step.name}", DETAIL_BYTES)
        values, components = connected_components(pairs)
        rows.database.register("components", {"component_value": values, "component": components})
        turns = marked(
            rows,
            marks,
            by,
            needs=f"{step.order} {_NEEDS} {LOCATION_COLUMNS if step.confirm else ''}",
            joined=f"rows LEFT JOIN components ON {by} = component_value",
            together=f"coalesce(component, {by})",
            piece_rows=_ROWS_PER_PIECE,
        )
        for _ in turns:
            found = rows.columns(_IN_ORDER.format(order=step.order))
            positions = found["position"]
            signatures = self._signatures(rows, positions) if step.confirm else (np.empty(0), np.empty(0))
            self._groups.append(positions, found["same"], *signatures, found["url_hash"], found["caption_hash"])
        rows.database.unregister("components")

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Present rows that are copies of a survivor."""
        for positions, codes, colours, records, url_hash, caption_hash in self._groups:
            survivors: dict[int, list[int]] = defaultdict(list)
            dropped = []
            for place in np.flatnonzero(present(positions)).tolist():
                code = int(codes[place])
                nearby = [
                    one
                    for near in (code, *self._near.get(code, ()))
                    for one in survivors.get(near, ())
                    if url_hash[one] != url_hash[place] or caption_hash[one] == caption_hash[place]
                ]
                if nearby and (not self._confirm or self._matches_any(place, nearby, colours, records)):
                    dropped.append(place)
                else:
                    survivors[code].append(place)
            yield positions[dropped]

    def _signatures(self, rows: Rows, positions: Positions) -> tuple[Bytes, Positions]:
        """The colour signatures of pictures, in the order of `positions`, and the record numbers of their details."""
        order = np.argsort(positions)
        colours, records = np.empty((len(positions), COLOURS_BYTES), np.uint8), np.empty(len(positions), np.int64)

        def details() -> Iterator[Bytes]:
            for place, image in zip(order, rows.images(positions, "matches"), strict=True):
                colours[place], detail = signature(image)
                yield detail

        records[order] = self._details.extend(details()) + np.arange(len(order))
        return colours, records

    def _matches_any(self, place: int, others: list[int], colours: Bytes, records: Positions) -> bool:
        one = Signature(colours[place], self._details[records[place]])
        return matches_any(one, colours[others], lambda other: self._details[records[others[other]]])


def _near(rows: Rows, by: str, within: int) -> tuple[Marks, NDArray[np.int64]]:
    """Marks for the rows whose hash equals another's or is near it, and the near pairs of hashes, (pairs, 2)."""
    marks = Marks(rows.total)
    with tempfile.TemporaryDirectory(dir=rows.spill, prefix="near-") as folder:
        codes = CodeFile(Path(folder))
        for piece in rows.partitioned(_VALUES.format(by=by)):
            values = numbers(piece, "value")
            marks.add(numbers(piece, "position")[repeated(values)])
            codes.append(np.unique(values).view(np.uint64))
        pairs = codes.near_pairs(within).view(np.int64)
    near = np.unique(pairs)
    for batch in rows.batches(_VALUES.format(by=by)) if len(near) else ():
        marks.add(numbers(batch, "position")[np.isin(numbers(batch, "value"), near)])
    return marks, pairs


def _placeholders(rows: Rows, step: Placeholder) -> Positions:
    query = _PLACEHOLDERS.format(captions=step.captions)
    found = [rows.columns(query)["position"] for _ in matching_rows(rows, f"({step.by})", _NEEDS)]
    return np.concatenate([np.empty(0, np.int64), *found])
