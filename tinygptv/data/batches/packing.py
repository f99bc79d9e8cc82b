"""Sequences of unlike lengths → fewer, fuller rows. B samples, T tokens of the longest; R rows of L tokens.

In a row of its own every sequence is padded to the longest of the batch: at stage 4's lengths that is more padding than
text. Here sequences share rows. Positions begin at 0 with each of them, and attention never crosses from one into
another, so loss and gradients are those of separate rows. There are as many rows as can be almost full: short rows keep
attention cheap, which costs the square of L.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tinygptv.data.prompting.sequences import Texts
from tinygptv.sample import IGNORE_INDEX

FULL = 0.95
"""The least share of tokens in a packed batch that is no padding."""


class Packed(NamedTuple):
    """Texts (R, L), the place of each token in its own sequence (R, L) int64, and which of the B sequences follow each
    other in reading order. Without places every sequence has a row of its own."""

    texts: Texts
    position_ids: Tensor | None
    order: list[int]


def pack(texts: Texts) -> Packed:
    """The same sequences, of right-padded texts (B, T), in as many rows as can be `FULL`."""
    # A token hidden from attention still has its place; the last one of a sequence never is.
    lengths = (texts.attention_mask * torch.arange(1, texts.attention_mask.shape[1] + 1)).amax(dim=1).tolist()
    rows = packed_rows(lengths)
    if len(rows) == len(lengths):
        return Packed(texts, None, list(range(len(rows))))
    longest = max(sum(lengths[number] for number in row) for row in rows)
    ids, mask = texts.input_ids.new_zeros(len(rows), longest), texts.attention_mask.new_zeros(len(rows), longest)
    labels = texts.labels.new_full((len(rows), longest), IGNORE_INDEX)
    positions = torch.empty_like(ids)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            length = lengths[number]
            ids[row, start : start + length] = texts.input_ids[number, :length]
            mask[row, start : start + length] = texts.attention_mask[number, :length]
            # What a sequence begins with cannot be learned from the sequence before it.
            labels[row, start + 1 : start + length] = texts.labels[number, 1:length]
            # Padding goes on with the positions of the last sequence, so that zeros are beginnings and nothing else.
            positions[row, start:] = torch.arange(longest - start)
            start += length
    return Packed(Texts(ids, mask, labels), positions, [number for row in rows for number in row])


def packed_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of sequences by row: the most rows of which a share of `FULL` is tokens, in the order of their first."""
    total = sum(lengths)
    rows = min(len(lengths), max(1, int(total / (FULL * max(lengths)))))
    while True:
        packed = _balanced(lengths, rows)
        if total >= FULL * rows * max(sum(lengths[number] for number in row) for row in packed):
            return sorted(packed)
        rows -= 1


def _balanced(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Every sequence, longest first, goes into the row that is shortest so far."""
    shortest: list[tuple[int, int]] = [(0, row) for row in range(rows)]
    packed: list[list[int]] = [[] for _ in range(rows)]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length, row = shortest[0]
        packed[row].append(number)
        heapq.heapreplace(shortest, (length + lengths[number], row))
    return [sorted(row) for row in packed]
