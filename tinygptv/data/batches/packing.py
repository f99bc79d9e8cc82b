"""Sequences of different lengths → fewer, fuller rows. B samples, T tokens of the longest; R rows of L tokens.

Without packing every sequence is padded to the longest of the batch: at stage 4's lengths that is more padding than
text. Packed sequences share rows. Positions restart at 0 for each, and attention never crosses from one into another,
so loss and gradients equal those of separate rows. Rows are as many as can be nearly full: attention costs the square
of L, so short rows are cheaper.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tinygptv.data.prompting.sequences import Texts
from tinygptv.sample import IGNORE_INDEX

FULL = 0.95
"""Minimum share of tokens in a packed batch that are not padding."""


class Packed(NamedTuple):
    """Texts (R, L), position of each token within its sequence (R, L) int64, and the order of the B sequences in
    reading order. `position_ids` is None if every sequence has its own row."""

    texts: Texts
    position_ids: Tensor | None
    order: list[int]


def pack(texts: Texts) -> Packed:
    """Pack right-padded texts (B, T) into as many rows as can be `FULL`."""
    # Masked tokens inside a sequence count towards its length; the last token of a sequence is never masked.
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
            # A sequence's first token cannot be predicted from the previous sequence.
            labels[row, start + 1 : start + length] = texts.labels[number, 1:length]
            # Padding continues the positions of the last sequence, so that 0 always marks the start of a sequence.
            positions[row, start:] = torch.arange(longest - start)
            start += length
    return Packed(Texts(ids, mask, labels), positions, [number for row in rows for number in row])


def packed_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Sequence numbers by row: as many rows as can be `FULL`, ordered by their first sequence."""
    total = sum(lengths)
    rows = min(len(lengths), max(1, int(total / (FULL * max(lengths)))))
    while True:
        packed = _balanced(lengths, rows)
        if total >= FULL * rows * max(sum(lengths[number] for number in row) for row in packed):
            return sorted(packed)
        rows -= 1


def _balanced(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Assign sequences, longest first, to the currently shortest row."""
    shortest: list[tuple[int, int]] = [(0, row) for row in range(rows)]
    packed: list[list[int]] = [[] for _ in range(rows)]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length, row = shortest[0]
        packed[row].append(number)
        heapq.heapreplace(shortest, (length + lengths[number], row))
    return [sorted(row) for row in packed]
