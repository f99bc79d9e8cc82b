"""Rows that several sequences share: nothing lost, nothing mixed up, little padding."""

import random

import pytest
import torch

from tinygptv.data.batches.packing import FULL, pack, packed_rows
from tinygptv.data.prompting.sequences import Texts
from tinygptv.sample import IGNORE_INDEX


def padded(lengths: list[int]) -> Texts:
    """Sequence n holds 1000 n, 1000 n + 1, …; all but its first token are learned."""
    shape = (len(lengths), max(lengths))
    ids, mask = torch.full(shape, 7), torch.zeros(shape, dtype=torch.long)
    for number, length in enumerate(lengths):
        ids[number, :length] = 1000 * number + torch.arange(length)
        mask[number, :length] = 1
    labels = ids.masked_fill(mask == 0, IGNORE_INDEX)
    labels[:, 0] = IGNORE_INDEX
    return Texts(ids, mask, labels)


def random_lengths(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [round(rng.lognormvariate(4, 0.8)) + 1 for _ in range(rng.randrange(1, 40))]


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_full_and_hold_every_sequence_once(seed: int) -> None:
    lengths = random_lengths(seed)
    rows = packed_rows(lengths)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    longest = max(sum(lengths[number] for number in row) for row in rows)
    assert sum(lengths) >= FULL * longest * len(rows)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([5], [[0]]),
        ([9, 9, 9], [[0], [1], [2]]),
        ([10, 3, 7], [[0], [1, 2]]),
        ([10, 3, 7, 100], [[0, 1, 2, 3]]),
    ],
)
def test_there_are_as_many_rows_as_can_be_full(lengths: list[int], rows: list[list[int]]) -> None:
    assert packed_rows(lengths) == rows


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_keeps_its_tokens_labels_and_places(seed: int) -> None:
    lengths = [*random_lengths(seed), 300]
    texts, positions, order = pack(padded(lengths))
    assert positions is not None
    starts = (positions == 0).flatten().nonzero()[:, 0].tolist()
    ids, labels, mask, places = (tensor.flatten() for tensor in (texts.input_ids, texts.labels, *texts[1:2], positions))
    for number, start in zip(order, starts, strict=True):
        own = slice(start, start + lengths[number])
        expected = 1000 * number + torch.arange(lengths[number])
        assert torch.equal(ids[own], expected)
        assert torch.equal(labels[own][1:], expected[1:])
        assert torch.equal(places[own], torch.arange(lengths[number]))
        assert mask[own].all()
    assert mask.sum() == sum(lengths)
    assert (labels != IGNORE_INDEX).sum() == sum(lengths) - len(lengths)


def test_sequences_that_fill_rows_of_their_own_are_left_alone() -> None:
    texts = padded([20, 20, 19, 20])
    assert pack(texts) == (texts, None, [0, 1, 2, 3])


def test_a_token_hidden_from_attention_keeps_its_place() -> None:
    texts = padded([4, 9])
    texts.attention_mask[0, 2] = 0
    packed, positions, _ = pack(texts)
    assert positions is not None
    assert packed.attention_mask.tolist() == [[1, 1, 0, 1] + [1] * 9]
    assert positions.tolist() == [[*range(4), *range(9)]]


def test_what_a_sequence_begins_with_is_not_learned_from_the_one_before_it() -> None:
    texts = padded([4, 9])
    texts.labels[:, 0] = texts.input_ids[:, 0]
    packed, _, _ = pack(texts)
    assert packed.labels[0, [0, 4]].tolist() == [IGNORE_INDEX] * 2
