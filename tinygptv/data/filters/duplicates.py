"""Which rows are copies of others, or no pictures at all: prepared once per step, then asked about any set of rows.

DuckDB finds the few rows that have a fellow; what becomes of them depends on who else is left, and is decided on
arrays. Rows of earlier sidecars come first in every order.
"""

import tempfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.columns.arrow import numbers
from tinygptv.data.columns.connected_components import chains_of, neighbours
from tinygptv.data.columns.hamming import CodeFile
from tinygptv.data.columns.spilled import Records, Spilled
from tinygptv.data.filters.matches import Marks, fellows, marked, repeated
from tinygptv.data.filters.rows import PLACE, Positions, Rows
from tinygptv.data.pictures.likeness import COLOURS_BYTES, DETAIL_BYTES, Bytes, Look, is_like_any, look
from tinygptv.definitions.filters import Deduplicate, Placeholder

Present = Callable[[Positions], NDArray[np.bool_]]
"""Which of some rows are there."""

_ADDRESS = "hash(coalesce(url, key))"
_SAID = "hash(lower(coalesce(caption, key)))"
_NEEDS = "url key caption"
_COPIES = f"""
SELECT position::UINTEGER AS position, (min(position) OVER (PARTITION BY same))::UINTEGER AS first,
    {_ADDRESS} AS address, {_SAID} AS said
FROM fellows ORDER BY first, earlier DESC, {{order}}, position
"""
_PLACEHOLDERS = f"""
SELECT unnest(flatten(list(positions))) AS position FROM (
    SELECT same, list(position) AS positions, list_sort(list_distinct(list(hash(caption)))) AS said
    FROM fellows GROUP BY same, {_ADDRESS}
) GROUP BY same HAVING count(DISTINCT said) >= {{captions}}
"""
_VALUES = "SELECT position, {by} AS value, hash({by}) AS code FROM rows WHERE {by} IS NOT NULL"
_IN_ORDER = f"""
SELECT position::UINTEGER AS position, same, {_ADDRESS} AS address, {_SAID} AS said
FROM fellows ORDER BY earlier DESC, {{order}}, position
"""

_LOOKED_AT_ROWS = 25_000
"""Of so many, colours are in memory at a time; details stay on disk."""


class Comparison(ABC):
    """One step, ready to be asked."""

    @abstractmethod
    def dropped(self, present: Present) -> Iterator[Positions]:
        """Positions of the rows that the step drops if only those that are `present` are there, in pieces.

        What a piece drops may be gone before the next one is asked for: that changes nothing.
        """


def compare(rows: Rows, step: Deduplicate | Placeholder) -> Comparison:
    """The step, prepared for these rows."""
    if isinstance(step, Placeholder):
        return Fixed(_placeholders(rows, step))
    return EqualCopies(rows, step) if step.within is None else NearCopies(rows, step, step.within)


class Fixed(Comparison):
    """Rows that are dropped whoever else is there."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those of them that are there."""
        yield self._positions[present(self._positions)]


class EqualCopies(Comparison):
    """Of rows that are equal, all but the first in order; but rows of its address that say something else are the same
    picture, not copies of it."""

    def __init__(self, rows: Rows, step: Deduplicate) -> None:
        self._groups = Spilled(rows.spill / f"copies-{step.name}")
        for _ in fellows(rows, f"({step.by})", f"{step.order} {_NEEDS}"):
            found = rows.columns(_COPIES.format(order=step.order))
            self._groups.append(*(found[name] for name in ("position", "first", "address", "said")))

    def dropped(self, present: Present) -> Iterator[Positions]:
        """All but the first that is there, of each group, and what else its address says."""
        for columns in self._groups:
            is_there = present(columns[0])
            positions, group, address, said = (column[is_there] for column in columns)
            begins = np.append(True, group[1:] != group[:-1])[: len(group)]
            survivor = np.flatnonzero(begins)[np.cumsum(begins) - 1]
            mates = np.flatnonzero(address == address[survivor])
            _, firsts = np.unique(np.stack([group[mates].astype(np.uint64), said[mates]]), axis=1, return_index=True)
            yield np.delete(positions, mates[firsts])


class NearCopies(Comparison):
    """Of rows with near hashes whose pictures look the same: in order, whoever is a copy of no survivor survives.

    So whoever is dropped has a survivor that looks the same, which a chain of neighbours would not promise. Chains are
    what is looked at together: who is in none of another's can be no copy of it.
    """

    def __init__(self, rows: Rows, step: Deduplicate, within: int) -> None:
        by = f"({step.by})"
        marks, pairs = _near(rows, by, within)
        self._near = neighbours(pairs)
        self._confirm = step.confirm
        self._groups = Spilled(rows.spill / f"near-{step.name}")
        self._details = Records(rows.spill / f"details-{step.name}", DETAIL_BYTES)
        values, chains = chains_of(pairs)
        rows.database.register("chains", {"chain_value": values, "chain": chains})
        turns = marked(
            rows,
            marks,
            by,
            needs=f"{step.order} {_NEEDS} {PLACE if step.confirm else ''}",
            joined=f"rows LEFT JOIN chains ON {by} = chain_value",
            together=f"coalesce(chain, {by})",
            piece_rows=_LOOKED_AT_ROWS,
        )
        for _ in turns:
            found = rows.columns(_IN_ORDER.format(order=step.order))
            positions = found["position"]
            looks = self._look(rows, positions) if step.confirm else (np.empty(0), np.empty(0))
            self._groups.append(positions, found["same"], *looks, found["address"], found["said"])
        rows.database.unregister("chains")

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those that are there and copies of a survivor."""
        for positions, codes, colours, records, address, said in self._groups:
            survivors: dict[int, list[int]] = defaultdict(list)
            dropped = []
            for place in np.flatnonzero(present(positions)).tolist():
                code = int(codes[place])
                nearby = [
                    one
                    for near in (code, *self._near.get(code, ()))
                    for one in survivors.get(near, ())
                    if address[one] != address[place] or said[one] == said[place]
                ]
                if nearby and (not self._confirm or self._is_like_any(place, nearby, colours, records)):
                    dropped.append(place)
                else:
                    survivors[code].append(place)
            yield positions[dropped]

    def _look(self, rows: Rows, positions: Positions) -> tuple[Bytes, Positions]:
        """The colours of pictures, in the order of `positions`, and under which numbers their details are kept."""
        order = np.argsort(positions)
        colours, records = np.empty((len(positions), COLOURS_BYTES), np.uint8), np.empty(len(positions), np.int64)

        def details() -> Iterator[Bytes]:
            for place, image in zip(order, rows.images(positions, "fellows"), strict=True):
                colours[place], detail = look(image)
                yield detail

        records[order] = self._details.extend(details()) + np.arange(len(order))
        return colours, records

    def _is_like_any(self, place: int, others: list[int], colours: Bytes, records: Positions) -> bool:
        one = Look(colours[place], self._details[records[place]])
        return is_like_any(one, colours[others], lambda other: self._details[records[others[other]]])


def _near(rows: Rows, by: str, within: int) -> tuple[Marks, NDArray[np.int64]]:
    """The rows whose hash is another's or near it, and the pairs of hashes that are near: (pairs, 2)."""
    marks = Marks(rows.total)
    with tempfile.TemporaryDirectory(dir=rows.spill, prefix="near-") as folder:
        codes = CodeFile(Path(folder))
        for piece in rows.dealt(_VALUES.format(by=by)):
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
    found = [rows.columns(query)["position"] for _ in fellows(rows, f"({step.by})", _NEEDS)]
    return np.concatenate([np.empty(0, np.int64), *found])
