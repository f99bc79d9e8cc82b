"""Batches through shared memory: as they were, whatever their sizes, and no memory is used again before it is free."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from tinygptv.data.batches.batching import Batch
from tinygptv.data.batches.shared_memory import Receiver, Sender
from tinygptv.errors import DataError

MEBIBYTE = 1 << 20


@pytest.fixture
def ends() -> tuple[Sender, Receiver]:
    ours, theirs = multiprocessing.Pipe()
    return Sender(theirs), Receiver(ours)


def batch(pixels: int) -> Batch:
    ids = torch.randint(0, 100, (2, 3))
    return Batch(torch.randint(0, 256, (pixels,), dtype=torch.uint8), ids, ids + 1, ids + 2, keys=("a", "b"))


def hand_over(ends: tuple[Sender, Receiver], *batches: Batch) -> list[Batch]:
    """What arrives; the sender is told first what was let go."""
    sender, receiver = ends
    sender.take_back(receiver.released())
    sender.send(batches)
    arrived: list[Batch] = receiver.receive()
    for one, other in zip(arrived, batches, strict=True):
        assert one.keys == other.keys
        assert one.position_ids is None
        for name in ("pixels", "input_ids", "attention_mask", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    return arrived


def memories(arrived: list[Batch]) -> set[int]:
    return {tensor.data_ptr() // MEBIBYTE for one in arrived for tensor in (one.input_ids, one.labels)}


def test_batches_that_grow_and_shrink_arrive_whole(ends: tuple[Sender, Receiver]) -> None:
    for pixels in (10, 3 * MEBIBYTE, 0, 5 * MEBIBYTE, 7):
        hand_over(ends, batch(pixels), batch(1))


def test_memory_is_filled_again_once_nothing_lies_in_it_and_not_before(ends: tuple[Sender, Receiver]) -> None:
    first = hand_over(ends, batch(100))
    labels, place = first[0].labels, memories(first)
    was = labels.clone()
    del first
    second = hand_over(ends, batch(100))
    assert memories(second) != place
    assert torch.equal(labels, was)
    del labels
    assert memories(hand_over(ends, batch(100))) == place


def test_no_batch_and_one_without_tensors_of_any_size_are_handed_over(ends: tuple[Sender, Receiver]) -> None:
    assert hand_over(ends) == []
    empty = replace(batch(0), **dict.fromkeys(("input_ids", "attention_mask", "labels"), torch.empty(0, 0)))
    hand_over(ends, empty)
    assert ends[1].released() == [0]


def test_an_error_takes_the_place_of_batches() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send(DataError("00007.tar is torn"))
    assert str(Receiver(ours).receive()) == "00007.tar is torn"
