"""Common concepts thinned out, rare ones kept: MetaCLIP's balancing (arXiv 2309.16671), with chance made of keys."""

from collections.abc import Iterator

import numpy as np

from tinygptv.data.columns.arrow import numbers
from tinygptv.data.columns.phrases import Phrases
from tinygptv.data.columns.spilled import Spilled
from tinygptv.data.filters.duplicates import Comparison, Present
from tinygptv.data.filters.rows import Positions, Rows
from tinygptv.definitions.filters import Balance

# The digest of a key is a number that everybody computes alike, and that has nothing to do with the picture.
_CAPTIONS = (
    "SELECT position, caption, md5_number_lower(key) / 18446744073709551616.0 AS chance FROM rows WHERE NOT earlier"
)


class Balanced(Comparison):
    """Of the rows with common phrases only, those that chance leaves out."""

    def __init__(self, rows: Rows, step: Balance) -> None:
        self._most = step.per_concept
        phrases = Phrases(step.concepts)
        self._found = Spilled(rows.spill / f"phrases-{step.name}")
        for batch in rows.batches(_CAPTIONS):
            # A phrase counts once per caption.
            text, phrase = np.unique(np.stack(phrases.find(batch["caption"])), axis=1)
            self._found.append(numbers(batch, "position")[text], phrase, numbers(batch, "chance")[text])

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those whose chance is not below the share that is wanted of any of their phrases."""
        counts = np.zeros(0, np.int64)
        for positions, phrases, _ in self._found:
            here = np.bincount(phrases[present(positions)], minlength=len(counts))
            here[: len(counts)] += counts
            counts = here
        wanted = self._most / np.maximum(counts, 1)
        for positions, phrases, chances in self._found:
            is_there = present(positions)
            left = positions[is_there]
            is_wanted = chances[is_there] < wanted[phrases[is_there]]
            yield np.setdiff1d(left, left[is_wanted])
