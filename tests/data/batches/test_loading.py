"""Batches made ahead by workers: the same ones in the same order, whatever happens to the workers."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pytest
import torch

from tinygptv.data.batches.batching import Batch, Replaced
from tinygptv.data.batches.loading import AHEAD, TRIES, Batches, BatchesAhead
from tinygptv.errors import DataError

SHARE = (1, 2, 4)
"""Rank, ranks, samples at a time."""


@dataclass
class Numbered:
    """Two pieces a step, made of its number. Where a file tells them to, they do badly; and each step is noted down."""

    folder: Path

    @property
    def sources(self) -> list[str]:
        return ["numbers"]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        with (self.folder / "made").open("a") as made:
            made.write(f"{step}\n")
        match trouble(self.folder, step):
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "refuse":
                raise DataError(f"00007.tar: step {step} is torn")
            case "fail":
                raise ZeroDivisionError(step)
        return [piece(step, number) for number in range(2)]


def piece(step: int, number: int) -> Batch:
    torch.manual_seed(2 * step + number)
    ids = torch.randint(0, 100, (3, 5))
    pixels = torch.randint(0, 256, (number * 2, 3, 4, 4), dtype=torch.uint8)
    keys = (f"{step}", f"{number}", "c")
    return Batch(
        pixels, ids, ids + 1, ids + 2, keys, ("numbers",) * 3, replaced=(Replaced("numbers", "a", "torn", "b"),)
    )


def trouble(folder: Path, step: int) -> str | None:
    """What a step is to suffer from; once only, unless it says always."""
    told = folder / f"trouble{step}"
    if not told.exists():
        return None
    what, _, how_often = told.read_text().partition(" ")
    if not how_often:
        told.unlink()
    return what


def numbered(folder: Path) -> Batches:
    return Numbered(folder)


@dataclass
class Opened:
    ahead: BatchesAhead
    folder: Path
    losses: list[str]

    def steps(self, *steps: int) -> None:
        """Ask for steps; each must be what it is without workers."""
        for step in steps:
            assert_same(self.ahead.micro_batches(step, *SHARE), [piece(step, number) for number in range(2)])


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in (field.name for field in fields(Batch)):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Opened]:
    def open_them(workers: int = 2, patience_seconds: float = 60) -> Opened:
        losses: list[str] = []
        ahead = BatchesAhead(["numbers"], partial(numbered, tmp_path), workers, patience_seconds, losses.append)
        return Opened(ahead, tmp_path, losses)

    return open_them


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_steps_come_in_their_order_and_to_the_bit(opened: Callable[..., Opened], workers: int) -> None:
    opened(workers).steps(*range(7))


def test_steps_may_be_left_out_and_come_again_as_after_a_roll_back(opened: Callable[..., Opened]) -> None:
    opened().steps(0, 1, 2, 3, 1, 2, 5, 6, 0)


def test_a_batch_that_is_kept_stays_as_it_was_whatever_follows(opened: Callable[..., Opened]) -> None:
    batches = opened(workers=1)
    kept = [batches.ahead.micro_batches(step, *SHARE) for step in range(5)]
    batches.steps(*range(5, 12))
    for step, made in enumerate(kept):
        assert_same(made, [piece(step, number) for number in range(2)])


def test_memory_of_batches_that_are_gone_is_used_again(opened: Callable[..., Opened]) -> None:
    batches = opened(workers=1)
    batches.steps(*range(40))
    maps = [Path(f"/proc/{process}/maps").read_text() for process in (os.getpid(), *batches.ahead.workers)]
    assert all(1 <= content.count("memfd:batches") <= AHEAD + 3 for content in maps)


def test_no_more_is_made_than_a_few_steps_ahead(opened: Callable[..., Opened]) -> None:
    batches = opened(workers=2)
    batches.steps(0, 1)
    made = {int(line) for line in (batches.folder / "made").read_text().split()}
    assert max(made) <= 1 + 2 * AHEAD


@pytest.mark.parametrize("what", ["die", "hang"])
def test_a_worker_that_is_lost_is_named_and_its_batches_are_made_again(
    opened: Callable[..., Opened], tmp_path: Path, what: str
) -> None:
    (tmp_path / "trouble3").write_text(what)
    batches = opened(patience_seconds=2 if what == "hang" else 60)
    pids = batches.ahead.workers
    batches.steps(*range(6))
    (told,) = batches.losses
    how = "ended with exit code" if what == "die" else "gave no answer for 2 s"
    assert told.startswith(f"loader worker 1, process {pids[1]}, {how}")
    assert told.endswith("over batch 4")
    assert batches.ahead.workers[0] == pids[0]
    assert batches.ahead.workers[1] != pids[1]
    assert not Path(f"/proc/{pids[1]}").exists()


def test_a_worker_killed_while_it_waits_is_replaced(opened: Callable[..., Opened]) -> None:
    batches = opened()
    batches.steps(0, 1)
    os.kill(batches.ahead.workers[0], signal.SIGKILL)
    batches.steps(*range(2, 8))
    assert len(batches.losses) <= 1


def test_worker_after_worker_lost_over_the_same_batch_is_an_error(
    opened: Callable[..., Opened], tmp_path: Path
) -> None:
    (tmp_path / "trouble2").write_text("die always")
    batches = opened()
    batches.steps(0, 1)
    with pytest.raises(DataError, match=rf"over batch 3, as {TRIES - 1} before it; set loader_workers: 0"):
        batches.ahead.micro_batches(2, *SHARE)
    assert len(batches.losses) == TRIES


def test_an_error_in_a_worker_comes_when_its_step_does_and_as_it_was(
    opened: Callable[..., Opened], tmp_path: Path
) -> None:
    (tmp_path / "trouble2").write_text("refuse")
    (tmp_path / "trouble3").write_text("fail")
    batches = opened()
    batches.steps(0, 1)
    with pytest.raises(DataError, match=r"00007.tar: step 2 is torn"):
        batches.ahead.micro_batches(2, *SHARE)
    with pytest.raises(RuntimeError, match=r"(?s)a loader worker failed:.*ZeroDivisionError: 3"):
        batches.ahead.micro_batches(3, *SHARE)
    assert not batches.losses
