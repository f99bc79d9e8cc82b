"""Which rows are copies of others, or no pictures at all: prepared once per step, then asked about any set of rows.

DuckDB finds the few rows that have a fellow; what becomes of them depends on who else is left, and is decided on
arrays. Rows of earlier sidecars come first in every order.
"""

from abc import ABC, abstractmethod
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.likeness import SIDE, is_like_any, thumbnail
from tinygptv.data.near import near_pairs
from tinygptv.data.rows import Positions, Rows
from tinygptv.definitions.filters import Deduplicate, Placeholder

Mask = NDArray[np.bool_]

# Hashes only tell who need not be looked at; the values themselves decide.
_REPEATED = """
WITH repeated AS (SELECT hash({by}) AS code FROM rows WHERE {by} IS NOT NULL GROUP BY code HAVING count(*) > 1),
    fellows AS (SELECT * FROM rows WHERE {by} IS NOT NULL AND hash({by}) IN (FROM repeated))
"""
_COPIES = (
    _REPEATED
    + """
SELECT position::UINTEGER AS position, (min(position) OVER same)::UINTEGER AS fellows,
    (row_number() OVER (same ORDER BY earlier DESC, {order}, position))::UINTEGER AS rank
FROM fellows WINDOW same AS (PARTITION BY {by})
"""
)
_PLACEHOLDERS = (
    _REPEATED
    + """
SELECT unnest(list(position)) AS position FROM fellows GROUP BY {by} HAVING count(DISTINCT hash(caption)) >= {captions}
"""
)
_CODES = "SELECT position, {by} AS code FROM rows WHERE {by} IS NOT NULL"
_IN_ORDER = """
SELECT position, code FROM rows JOIN candidates USING (position) ORDER BY earlier DESC, {order}, position
"""


class Comparison(ABC):
    """One step, ready to be asked."""

    @abstractmethod
    def dropped(self, among: Mask) -> Positions:
        """Positions of the rows that the step drops if only those that `among` marks are there."""


def compare(rows: Rows, step: Deduplicate | Placeholder) -> Comparison:
    """The step, prepared for these rows."""
    if isinstance(step, Placeholder):
        query = _PLACEHOLDERS.format(by=f"({step.by})", captions=step.captions)
        return Fixed(rows.columns(query)["position"])
    return EqualCopies(rows, step) if step.within is None else NearCopies(rows, step, step.within)


class Fixed(Comparison):
    """Rows that are dropped whoever else is there."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions

    def dropped(self, among: Mask) -> Positions:
        """Those of them that are there."""
        return self._positions[among[self._positions]]


class EqualCopies(Comparison):
    """Of rows that are equal, all but the first in order."""

    def __init__(self, rows: Rows, step: Deduplicate) -> None:
        found = rows.columns(_COPIES.format(by=f"({step.by})", order=step.order))
        order = np.lexsort((found["rank"], found["fellows"]))
        self._positions, self._fellows = found["position"][order], found["fellows"][order]

    def dropped(self, among: Mask) -> Positions:
        """All but the first that is there, of each group."""
        is_there = among[self._positions]
        positions, fellows = self._positions[is_there], self._fellows[is_there]
        return positions[1:][fellows[1:] == fellows[:-1]]


class NearCopies(Comparison):
    """Of rows with near hashes whose pictures look the same: in order, whoever is a copy of no survivor survives.

    So whoever is dropped has a survivor that looks the same, which a chain of neighbours would not promise.
    """

    def __init__(self, rows: Rows, step: Deduplicate, within: int) -> None:
        found = rows.columns(_CODES.format(by=f"({step.by})"))
        codes, code_of, counts = np.unique(found["code"].view(np.uint64), return_inverse=True, return_counts=True)
        pairs = near_pairs(codes, within)
        has_fellow = counts > 1
        has_fellow[pairs.ravel()] = True
        chosen = has_fellow[code_of]
        candidates = {"position": found["position"][chosen], "code": code_of[chosen]}
        rows.database.register("candidates", candidates)
        ordered = rows.columns(_IN_ORDER.format(order=step.order))
        rows.database.unregister("candidates")
        self._positions, self._codes = ordered["position"], ordered["code"]
        self._near: dict[int, list[int]] = defaultdict(list)
        for one, other in pairs.tolist():
            self._near[one].append(other)
            self._near[other].append(one)
        self._thumbnails = _thumbnails(rows, self._positions) if step.confirm else None

    def dropped(self, among: Mask) -> Positions:
        """Those that are there and copies of a survivor."""
        survivors: dict[int, list[int]] = defaultdict(list)
        dropped = []
        for place in np.flatnonzero(among[self._positions]).tolist():
            code = int(self._codes[place])
            nearby = [one for near in (code, *self._near.get(code, ())) for one in survivors.get(near, ())]
            if nearby and self._is_like_any(place, nearby):
                dropped.append(place)
            else:
                survivors[code].append(place)
        return self._positions[dropped]

    def _is_like_any(self, place: int, others: list[int]) -> bool:
        return self._thumbnails is None or is_like_any(self._thumbnails[place], self._thumbnails[others])


def _thumbnails(rows: Rows, positions: Positions) -> NDArray[np.uint8]:
    """(n, 16, 16, 3), in the order of `positions`."""
    thumbnails = np.empty((len(positions), SIDE, SIDE, 3), np.uint8)
    for place, image in zip(np.argsort(positions), rows.images(positions), strict=True):
        thumbnails[place] = thumbnail(image)
    return thumbnails
