"""What the ranks of test_worker.py run: several trainings, whole and broken, in one start of torchrun.

Each folder beside the job file's holds a job of its own; what went wrong in it is left there as `error.txt`.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.swap_tensor import optimizer_utils, partitioned_param_swapper
from torch import distributed as dist

from tinygptv.data.batches.batching import Batch
from tinygptv.data.batches.loading import Batches
from tinygptv.models import head
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train import deepspeed, rank, worker
from tinygptv.train.batches import mixture_batches

Spoil = Callable[[int, list[Batch]], list[Batch]]


@dataclasses.dataclass(frozen=True)
class SpoiledBatches:
    """The real batches, through `spoil`, which may change them or raise."""

    real: Batches
    spoil: Spoil

    @property
    def sources(self) -> list[str]:
        return self.real.sources

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        return self.spoil(step, self.real.micro_batches(step, rank, ranks, micro_batch_size))


def stop_at(last: int) -> Spoil:
    def spoil(step: int, batches: list[Batch]) -> list[Batch]:
        if step == last:
            raise KeyboardInterrupt(f"stopped before step {step + 1}")
        return batches

    return spoil


def blind_at(last: int) -> Spoil:
    def spoil(step: int, batches: list[Batch]) -> list[Batch]:
        if step != last:
            return batches
        return [dataclasses.replace(batch, image_features=batch.images() * torch.nan) for batch in batches]

    return spoil


def die_at(last: int) -> Spoil:
    """Rank 1 is killed there, unless it has been started again."""

    def spoil(step: int, batches: list[Batch]) -> list[Batch]:
        if step == last and dist.get_rank() == 1 and not started_again():
            os.kill(os.getpid(), signal.SIGKILL)
        return batches

    return spoil


def noting_files_at(last: int, swapped: Path, note: Path) -> Spoil:
    """Leave the names of all files below `swapped` in the file `note`."""

    def spoil(step: int, batches: list[Batch]) -> list[Batch]:
        if step == last and dist.get_rank() == 0:
            note.write_text(json.dumps([str(path) for path in swapped.rglob("*.swp")]))
        return batches

    return spoil


def mute(step: int, batches: list[Batch]) -> list[Batch]:
    """In every second step rank 1 has nothing to learn, and rank 0 all the more."""
    if step % 2 == 0 or dist.get_rank() == 0:
        return batches
    return [dataclasses.replace(one, labels=torch.full_like(one.labels, IGNORE_INDEX)) for one in batches]


@contextlib.contextmanager
def logits_at_a_time(count: int) -> Iterator[None]:
    usual, head.LOGITS_AT_A_TIME = head.LOGITS_AT_A_TIME, count
    yield
    head.LOGITS_AT_A_TIME = usual


@contextlib.contextmanager
def swapping_everything() -> Iterator[None]:
    """Have even the smallest tensors leave for the disk, which stay in memory otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepspeed, "DISK_BLOCK_BYTES", 1024)
        for swapper in (optimizer_utils, partitioned_param_swapper):
            patch.setattr(swapper, "MIN_AIO_BYTES", 1024)
        yield


def started_again() -> bool:
    return os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"


def train(folder: Path, spoil: Spoil = lambda step, batches: batches) -> None:
    def batches(*opened: Any) -> SpoiledBatches:
        return SpoiledBatches(mixture_batches(*opened), spoil)

    try:
        worker.train(folder / "job.json", beat=lambda doing: None, open_batches=batches)
    except (Exception, KeyboardInterrupt) as error:
        if dist.get_rank() == 0:
            (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
    dist.barrier()


def cut_in_half(file: Path) -> None:
    if dist.get_rank() == 0:
        os.truncate(file, file.stat().st_size // 2)
    dist.barrier()


def continue_from(before: Path, after: Path) -> None:
    if dist.get_rank() == 0:
        shutil.copytree(before / "checkpoints", after / "checkpoints")
        shutil.copy(before / "metrics.jsonl", after)
    dist.barrier()


def scenario(job: Path, beat: worker.Beat) -> None:
    root = job.parent.parent
    if not started_again():
        everything_but_death(root)
    train(root / "killed", die_at(4))


def everything_but_death(root: Path) -> None:
    train(root / "whole")
    train(root / "interrupted", stop_at(4))
    train(root / "interrupted")
    train(root / "torn", stop_at(7))
    cut_in_half(root / "torn" / "checkpoints" / "step000006" / "tensors.safetensors")
    train(root / "torn")
    train(root / "blind", blind_at(4))
    train(root / "rolled_back", blind_at(4))
    train(root / "left", stop_at(4))
    continue_from(root / "left", root / "changed")
    train(root / "changed")
    for name in (
        "zero0",
        "zero1",
        "zero2_offloaded",
        "zero3",
        "zero3_offloaded",
        "packed_ahead",
        "second",
        "rounds",
        "halved",
        "halved_zero0",
        "cached",
        "nf4",
    ):
        train(root / name)
    train(root / "nf4_interrupted", stop_at(4))
    train(root / "nf4_interrupted")
    train(root / "uneven_whole", mute)
    train(root / "uneven_all_whole", mute)
    with logits_at_a_time(2 * 320):
        for name in ("uneven_zero2", "uneven_zero3", "uneven_all_zero3"):
            train(root / name, mute)
    for name in ("words_zero0", "words_zero2", "words_zero3"):
        train(root / name)
    if (root / "disk_given_up").exists():
        with swapping_everything():
            on_disk(root)


def on_disk(root: Path) -> None:
    train(root / "disk", noting_files_at(6, root / "swapped", root / "disk" / "swapped.json"))
    for name in ("disk_rounds", "disk_words", "disk_halved"):
        train(root / name)
    continue_from(root / "left", root / "disk_taken_up")
    train(root / "disk_taken_up", stop_at(7))
    continue_from(root / "disk_taken_up", root / "disk_given_up")
    train(root / "disk_given_up")


if __name__ == "__main__":
    rank.run(scenario)
