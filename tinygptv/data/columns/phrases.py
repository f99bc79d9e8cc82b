"""Which of some phrases occur in which of many texts; all texts at once, no Python per word."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.columns.scripts import UNSPACED

Integers = npt.NDArray[np.int64]

_NO_WORD = r"[^\p{L}\p{M}\p{N}]+"
_UNSPACED_LETTER = UNSPACED + r"\p{M}*"
_JOINERS = r"[\x{200B}-\x{200D}\x{2060}]"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing of 64 bits


def words_of(texts: pa.Array) -> tuple[pa.Array, Integers]:
    """All words of `texts` in order, in lower case, and for each the position of its text.

    Words are runs of letters, their marks and digits, so `it's` is two. In scripts without spaces each letter is one.
    """
    spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(_apart(pc.utf8_lower(texts)), _NO_WORD, " "))
    lists = pc.split_pattern(pc.fill_null(spaced, ""), " ")
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return lists.flatten(), np.repeat(np.arange(len(texts)), counts)


def _apart(texts: pa.Array) -> pa.Array:
    """Spaces around each letter of scripts that write none between words, and no joiners within a word."""
    others = pc.fill_null(pc.invert(pc.string_is_ascii(texts)), False)
    joined = pc.replace_substring_regex(texts.filter(others), _JOINERS, "")
    return pc.replace_with_mask(texts, others, pc.replace_substring_regex(joined, _UNSPACED_LETTER, r" \0 "))


class Phrases:
    """A set of phrases of one or more words, to be looked for in texts."""

    def __init__(self, phrases: Iterable[str]) -> None:
        """Phrases that are the same words are one; one without words is never found."""
        texts = pa.array(list(phrases), pa.string())
        words, owner = words_of(texts)
        self._vocabulary = pc.unique(words)
        lengths = np.bincount(owner, minlength=len(texts))
        ids = self._ids(words)
        self._by_length: dict[int, tuple[npt.NDArray[np.uint64], Integers]] = {}
        for length in np.unique(lengths[lengths > 0]).tolist():
            chosen = np.flatnonzero(lengths == length)
            codes = _codes(ids[np.isin(owner, chosen)].reshape(-1, length))
            codes, first = np.unique(codes, return_index=True)
            self._by_length[length] = codes, chosen[first]

    def find(self, texts: pa.Array) -> tuple[Integers, Integers]:
        """Positions of texts and of the phrases found in them, as pairs; a phrase that occurs twice is there twice."""
        words, owner = words_of(texts)
        ids = self._ids(words)
        found = [self._find(ids, owner, length) for length in self._by_length]
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])

    def _ids(self, words: pa.Array) -> Integers:
        """Position in the vocabulary, from 1; 0 for any other word."""
        found = pc.fill_null(pc.index_in(words, self._vocabulary), -1)
        return found.to_numpy(zero_copy_only=False).astype(np.int64) + 1

    def _find(self, ids: Integers, owner: Integers, length: int) -> tuple[Integers, Integers]:
        if len(ids) < length:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(ids, length)
        # A window counts where all its words are known and belong to one text.
        starts = np.flatnonzero((owner[: len(windows)] == owner[length - 1 :]) & (windows > 0).all(axis=1))
        known, phrase = self._by_length[length]
        codes = _codes(windows[starts])
        place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        hit = known[place] == codes
        return owner[starts[hit]], phrase[place[hit]]


def _codes(ids: Integers) -> npt.NDArray[np.uint64]:
    """(count, length) word ids → one 64-bit number each."""
    codes = np.zeros(len(ids), np.uint64)
    for column in ids.T:
        codes = (codes + column.astype(np.uint64)) * _FACTOR
    return codes
