"""Common concepts thinned out, rare ones kept: MetaCLIP's balancing (arXiv 2309.16671), with chance made of keys."""

from collections.abc import Iterator

import numpy as np

from tinygptv.data.duplicates import Comparison, Present
from tinygptv.data.phrases import Phrases
from tinygptv.data.rows import Positions, Rows
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
        found = [np.empty((2, 0), np.int64)]
        chances = [np.empty(0)]
        for batch in rows.batches(_CAPTIONS):
            # A phrase counts once per caption.
            text, phrase = np.unique(np.stack(phrases.find(batch["caption"])), axis=1)
            found.append(np.stack([batch["position"].to_numpy()[text], phrase]))
            chances.append(batch["chance"].to_numpy()[text])
        self._positions, self._phrases = np.concatenate(found, axis=1)
        self._chances = np.concatenate(chances)

    def dropped(self, present: Present) -> Iterator[Positions]:
        """Those whose chance is not below the share that is wanted of any of their phrases."""
        is_there = present(self._positions)
        positions, phrases, chances = self._positions[is_there], self._phrases[is_there], self._chances[is_there]
        is_wanted = chances < (self._most / np.bincount(phrases))[phrases]
        yield np.setdiff1d(positions, positions[is_wanted])
