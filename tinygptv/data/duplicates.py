"""Which rows are copies of others, or no pictures at all: prepared once per step, then asked about any set of rows.

DuckDB finds the few rows that have a fellow; what becomes of them depends on who else is left, and is decided on
arrays. Rows of earlier sidecars come first in every order.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.fellows import fellows
from tinygptv.data.likeness import SIDE, is_like_any, thumbnail
from tinygptv.data.near import near_pairs
from tinygptv.data.rows import Positions, Rows
from tinygptv.definitions.filters import Deduplicate, Placeholder

Present = Callable[[Positions], NDArray[np.bool_]]
"""Which of some rows are there."""

_COPIES = """
SELECT position::UINTEGER AS position, (min(position) OVER (PARTITION BY same))::UINTEGER AS first
FROM fellows ORDER BY first, earlier DESC, {order}, position
"""
_PLACEHOLDERS = """
SELECT unnest(list(position)) AS position FROM fellows GROUP BY same HAVING count(DISTINCT hash(caption)) >= {captions}
"""
_CODES = "SELECT position, {by} AS code FROM rows WHERE {by} IS NOT NULL"
_IN_ORDER = """
SELECT position, code FROM rows JOIN candidates USING (position) ORDER BY earlier DESC, {order}, position
"""


class Comparison(ABC):
    """One step, ready to be asked."""

    @abstractmethod
    def dropped(self, present: Present) -> Iterator[Positions]:
        """Positions of the rows that the step drops if only those that are `present` are there, in pieces.

        Who is dropped in one piece does not depend on who is there of another.
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
    """Of rows that are equal, all but the first in order. Their groups lie on disk."""

    def __init__(self, rows: Rows, step: Deduplicate) -> None:
        self._groups = rows.spill / f"copies-{step.name}"
        self._sizes = []
        with self._groups.open("wb") as file:
            for _ in fellows(rows, f"({step.by})", step.order):
                found = rows.columns(_COPIES.format(order=step.order))
                np.stack([found["position"], found["first"]]).tofile(file)
                self._sizes.append(len(found["position"]))

    def dropped(self, present: Present) -> Iterator[Positions]:
        """All but the first that is there, of each group."""
        with self._groups.open("rb") as file:
            for size in self._sizes:
                positions, firsts = np.fromfile(file, np.uint32, 2 * size).reshape(2, size)
                is_there = present(positions)
                positions, firsts = positions[is_there], firsts[is_there]
                yield positions[1:][firsts[1:] == firsts[:-1]]


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

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those that are there and copies of a survivor."""
        survivors: dict[int, list[int]] = defaultdict(list)
        dropped = []
        for place in np.flatnonzero(present(self._positions)).tolist():
            code = int(self._codes[place])
            nearby = [one for near in (code, *self._near.get(code, ())) for one in survivors.get(near, ())]
            if nearby and self._is_like_any(place, nearby):
                dropped.append(place)
            else:
                survivors[code].append(place)
        yield self._positions[dropped]

    def _is_like_any(self, place: int, others: list[int]) -> bool:
        return self._thumbnails is None or is_like_any(self._thumbnails[place], self._thumbnails[others])


def _placeholders(rows: Rows, step: Placeholder) -> Positions:
    query = _PLACEHOLDERS.format(captions=step.captions)
    found = [rows.columns(query)["position"] for _ in fellows(rows, f"({step.by})", "caption")]
    return np.concatenate([np.empty(0, np.int64), *found])


def _thumbnails(rows: Rows, positions: Positions) -> NDArray[np.uint8]:
    """(n, 16, 16, 3), in the order of `positions`."""
    thumbnails = np.empty((len(positions), SIDE, SIDE, 3), np.uint8)
    for place, image in zip(np.argsort(positions), rows.images(positions), strict=True):
        thumbnails[place] = thumbnail(image)
    return thumbnails
