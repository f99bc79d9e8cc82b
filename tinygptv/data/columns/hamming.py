"""Pairs of 64-bit hashes that differ in few bits, among millions, without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet, arXiv 1307.2982): cut each hash into more blocks than bits may differ;
two near hashes then agree in some blocks entirely, so only hashes that share those need to be compared.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint64]

_BITS = 64
_PIECE = 250_000
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing of 64 bits


class CodeFile:
    """Distinct hashes on disk, of which a quarter of a million are looked at together; `folder` is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "all"
        self._path.touch()
        self.count = 0

    def append(self, codes: Codes) -> None:
        """Add hashes that are not there yet."""
        with self._path.open("ab") as file:
            codes.tofile(file)
        self.count += len(codes)

    def near_pairs(self, within: int) -> Codes:
        """(pairs, 2) hashes at most `within` bits apart, the smaller first, in order."""
        return _near_pairs(self._agreeing, self.count, within)

    def _agreeing(self, mask: np.uint64) -> Iterator[Codes]:
        """All hashes in pieces; those that agree under `mask` are in one."""
        parts = -(-self.count // _PIECE)
        paths = [self._folder / str(part) for part in range(parts)]
        with self._path.open("rb") as file:
            while len(codes := np.fromfile(file, np.uint64, _PIECE)):
                part_of = ((((codes & mask) * _FACTOR) >> np.uint64(32)) % np.uint64(parts)).astype(np.uint16)
                order = np.argsort(part_of, kind="stable")
                ends = np.searchsorted(part_of[order], np.arange(parts + 1))
                for path, (start, end) in zip(paths, pairwise(ends.tolist()), strict=True):
                    with path.open("ab") as part:
                        codes[order[start:end]].tofile(part)
        for path in paths:
            yield np.fromfile(path, np.uint64)
            path.unlink()


def near_pairs(codes: Codes, within: int) -> Codes:
    """(pairs, 2) of distinct `codes` at most `within` bits apart, the smaller first, in order."""
    return _near_pairs(lambda _: [codes], len(codes), within)


def near_any(codes: Codes, others: Codes, within: int) -> npt.NDArray[np.bool_]:
    """Which of `codes` are at most `within` bits from one of `others`."""
    others = np.unique(others)
    agreeing = _agreeing_blocks(len(codes) + len(others), within)
    may_be = np.zeros(len(codes), np.bool_)
    for mask in _masks(within + agreeing, agreeing):
        may_be |= np.isin(codes & mask, others & mask)
    candidates = np.unique(codes[may_be])
    pairs = near_pairs(np.union1d(candidates, others), within)
    near = pairs[np.isin(pairs, others).any(axis=1)]
    return np.isin(codes, np.union1d(near, others))


def _near_pairs(agreeing_under: Callable[[np.uint64], Iterable[Codes]], count: int, within: int) -> Codes:
    agreeing = _agreeing_blocks(count, within)
    found = [np.empty((0, 2), np.uint64)]
    for mask in _masks(within + agreeing, agreeing):
        found += [_pairs_under(codes, mask, within) for codes in agreeing_under(mask)]
    return np.unique(np.concatenate(found), axis=0)


def _agreeing_blocks(count: int, within: int) -> int:
    """How many blocks to require: the fewest whose bits tell `count` random hashes apart."""
    needed = math.log2(max(count, 2))
    return next(blocks for blocks in range(1, _BITS) if blocks * _BITS // (within + blocks) >= needed)


def _masks(blocks: int, agreeing: int) -> list[np.uint64]:
    """Every choice of `agreeing` of the blocks, as bits."""
    edges = [_BITS * block // blocks for block in range(blocks + 1)]
    bits = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(bits, agreeing)]


def _pairs_under(codes: Codes, mask: np.uint64, within: int) -> Codes:
    """Near pairs that agree under `mask`, the smaller first."""
    codes = codes[np.argsort(codes & mask, kind="stable")]
    masked = codes & mask
    found = [np.empty((0, 2), np.uint64)]
    starts, step = np.flatnonzero(masked[1:] == masked[:-1]), 1
    while len(starts):
        one, other = codes[starts], codes[starts + step]
        near = np.bitwise_count(one ^ other) <= within
        found.append(np.sort(np.stack([one[near], other[near]], axis=1), axis=1))
        # Who agrees with the neighbour at this distance may agree with the next one too.
        step += 1
        starts = starts[starts + step < len(codes)]
        starts = starts[masked[starts] == masked[starts + step]]
    return np.concatenate(found)
