"""Pairs of 64-bit hashes that differ in few bits, among millions, without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet, arXiv 1307.2982): cut each hash into more blocks than bits may differ;
two near hashes then agree in some blocks entirely, so only hashes that share those need to be compared.
"""

import math
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]

_BITS = 64


def near_pairs(codes: Codes, within: int) -> Pairs:
    """(pairs, 2) positions of distinct `codes` at most `within` bits apart, the smaller first, in order."""
    agreeing = _agreeing_blocks(len(codes), within)
    found = [np.empty(0, np.uint64)]
    for mask in _masks(within + agreeing, agreeing):
        found.append(_pairs_under(codes, mask, within))
    packed = np.unique(np.concatenate(found))
    return np.stack([packed // np.uint64(len(codes) or 1), packed % np.uint64(len(codes) or 1)], axis=1).astype(
        np.int64
    )


def near_any(codes: Codes, others: Codes, within: int) -> npt.NDArray[np.bool_]:
    """Which of `codes` are at most `within` bits from one of `others`."""
    others = np.unique(others)
    agreeing = _agreeing_blocks(len(codes) + len(others), within)
    may_be = np.zeros(len(codes), np.bool_)
    for mask in _masks(within + agreeing, agreeing):
        may_be |= np.isin(codes & mask, others & mask)
    candidates = np.unique(codes[may_be])
    every = np.unique(np.concatenate([candidates, others]))
    is_near = np.isin(every, others)
    one, other = near_pairs(every, within).T
    one, other = one[is_near[other]], other[is_near[one]]
    near = np.union1d(every[is_near], every[np.union1d(one, other)])
    return np.isin(codes, near)


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
    """Near pairs that agree under `mask`, each packed into one number."""
    masked = codes & mask
    order = np.argsort(masked, kind="stable")
    masked = masked[order]
    found = [np.empty(0, np.uint64)]
    starts, step = np.flatnonzero(masked[1:] == masked[:-1]), 1
    while len(starts):
        one, other = order[starts].astype(np.uint64), order[starts + step].astype(np.uint64)
        near = np.bitwise_count(codes[one] ^ codes[other]) <= within
        one, other = one[near], other[near]
        found.append(np.minimum(one, other) * np.uint64(len(codes)) + np.maximum(one, other))
        # Who agrees with the neighbour at this distance may agree with the next one too.
        step += 1
        starts = starts[starts + step < len(codes)]
        starts = starts[masked[starts] == masked[starts + step]]
    return np.concatenate(found)
