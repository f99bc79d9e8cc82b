"""Copies by what a model saw: pictures recoloured, cropped or retouched, which no hash of their pixels finds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinygptv.data.columns.arrow import parquet
from tinygptv.data.columns.connected_components import neighbours
from tinygptv.data.filters.duplicates import Comparison, Present
from tinygptv.data.filters.rows import Positions, Rows
from tinygptv.data.filters.scores import EMBEDDING_WIDTH
from tinygptv.definitions.filters import EMBEDDING, Deduplicate
from tinygptv.errors import DataError

_BLOCK = 2048
_MOST_PAIRS = 20_000_000
_IN_ORDER = """
SELECT position, hash(coalesce(url, key)) AS address, hash(lower(coalesce(caption, key))) AS said
FROM rows JOIN candidates USING (position) ORDER BY {order}, position
"""

Pairs = NDArray[np.int32]


class SemanticCopies(Comparison):
    """Of rows whose embeddings are near: in order, whoever is near no survivor survives.

    Every picture is held against every other, block by block: exact, in memory that does not grow with the rows but for
    the pairs found, and in time that grows with their square: a minute of one core for a hundred thousand pictures.
    """

    def __init__(self, rows: Rows, step: Deduplicate, scores: Path, at_least: float) -> None:
        """`scores` is the scores table of the rows. Raises DataError if nearly everything is a copy."""
        pairs = near_pairs(scores, at_least, rows.spill)
        rows.database.register("candidates", pa.table({"position": np.unique(pairs).astype(np.int64)}))
        found = rows.columns(_IN_ORDER.format(order=step.order))
        self._positions: Positions = found["position"]
        pictures = zip(found["address"].tolist(), found["said"].tolist(), strict=True)
        self._pictures = dict(zip(self._positions.tolist(), pictures, strict=True))
        rows.database.unregister("candidates")
        self._near = neighbours(pairs)

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those that are there and near a survivor."""
        survivors: set[int] = set()
        dropped = []
        for position in self._positions[present(self._positions)].tolist():
            address, said = self._pictures[position]
            mates = {one for one in self._near[position] if one in survivors}
            if all(self._pictures[one][0] == address and self._pictures[one][1] != said for one in mates):
                survivors.add(position)
            else:
                dropped.append(position)
        yield np.array(dropped, np.int64)


def near_pairs(scores: Path, at_least: float, folder: Path) -> Pairs:
    """(pairs, 2) rows of a scores table whose embeddings have a cosine of `at_least` that, the smaller first.

    What is compared lies in a file in `folder` meanwhile. Rows without an embedding are near none.
    """
    with parquet(scores) as file, tempfile.TemporaryFile(dir=folder) as unpacked:
        count = file.metadata.num_rows
        for batch in file.iter_batches(_BLOCK, columns=[EMBEDDING]):
            unpacked.write(_dense(batch[EMBEDDING]).tobytes())
        unpacked.flush()
        if not count:
            return np.empty((0, 2), np.int32)
        vectors = np.memmap(unpacked, np.float16, "r", shape=(count, EMBEDDING_WIDTH))
        found, pairs = [np.empty((0, 2), np.int32)], 0
        for block in _blocks(vectors, at_least):
            pairs += len(block)
            if pairs > _MOST_PAIRS:
                raise DataError(
                    f"{scores}: more than {_MOST_PAIRS:,} pairs of pictures have a cosine of at least {at_least:g}; "
                    "raise at_least"
                )
            found.append(block)
    return np.concatenate(found)


def _blocks(vectors: NDArray[np.float16], at_least: float) -> Iterator[Pairs]:
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK].astype(np.float32)
        for other in range(start, len(vectors), _BLOCK):
            cosines = rows @ vectors[other : other + _BLOCK].astype(np.float32).T
            is_near = cosines >= at_least
            if other == start:
                is_near = np.triu(is_near, 1)
            yield np.argwhere(is_near).astype(np.int32) + np.array([start, other], np.int32)


def _dense(embeddings: pa.FixedSizeListArray) -> NDArray[np.float16]:
    """(rows, EMBEDDING_WIDTH), zeros where there is none."""
    dense = np.zeros((len(embeddings), EMBEDDING_WIDTH), np.float16)
    is_there = embeddings.is_valid().to_numpy(zero_copy_only=False)
    dense[is_there] = embeddings.flatten().to_numpy(zero_copy_only=False).reshape(-1, EMBEDDING_WIDTH)
    return dense
