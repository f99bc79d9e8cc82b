"""Checkpoints: the newest whole one is found, damaged ones are skipped, and a full disk costs none."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch

from tinygptv.definitions.recipe import Keep
from tinygptv.errors import StorageError
from tinygptv.store.artifacts import sha256_of
from tinygptv.train.checkpoint import (
    HASHES,
    TENSORS,
    newest_valid,
    refuse_full_disk,
    write_checkpoint,
)
from tinygptv.train.retention import STATE, checkpoints_in


def write(folder: Path, step: int) -> Path:
    path = folder / f"step{step:06d}"
    path.mkdir(parents=True)
    (path / TENSORS).write_text(f"weights of {step}")
    (path / STATE).write_text(f"state of {step}")
    (path / HASHES).write_text(json.dumps({name: sha256_of(path / name) for name in (TENSORS, STATE)}))
    return path


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_without_checkpoints_training_begins_at_the_beginning(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "checkpoints") is None


def test_the_newest_checkpoint_is_found_by_its_step(tmp_path: Path) -> None:
    write(tmp_path, 9)
    assert newest_valid(tmp_path) == (9, tmp_path / "step000009")
    write(tmp_path, 10)
    assert newest_valid(tmp_path) == (10, tmp_path / "step000010")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: os.truncate(path / TENSORS, 3), f"{TENSORS} has changed since it was written"),
        (lambda path: flip_a_bit(path / TENSORS), f"{TENSORS} has changed since it was written"),
        (lambda path: flip_a_bit(path / STATE), f"{STATE} has changed since it was written"),
        (lambda path: (path / STATE).unlink(), f"{STATE} is missing"),
        (lambda path: (path / HASHES).unlink(), f"{HASHES} is missing"),
        (lambda path: (path / HASHES).write_text('{"tensors'), f"{HASHES} is damaged"),
    ],
)
def test_a_damaged_one_is_skipped_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, told: str
) -> None:
    write(tmp_path, 100)
    damage(write(tmp_path, 200))
    with caplog.at_level(logging.WARNING):
        assert newest_valid(tmp_path) == (100, tmp_path / "step000100")
    assert told in caplog.text


def test_a_message_says_when_no_whole_checkpoint_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip_a_bit(write(tmp_path, 100) / TENSORS)
    assert newest_valid(tmp_path) is None
    assert "the stage starts from the beginning" in caplog.text


def test_one_that_was_still_being_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 100).rename(tmp_path / ".partial-step000100")
    (tmp_path / "latest").write_text("step000100")
    assert newest_valid(tmp_path) is None


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write(tmp_path, 100)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tinygptv.train.checkpoint.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full; free some space, then start the same command again"):
        write_checkpoint(tmp_path, 200, {}, [("a", (2,))], [torch.ones(2)], Keep())
    assert list(tmp_path.iterdir()) == [kept]
    assert newest_valid(tmp_path) == (100, kept)


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_training(tmp_path: Path) -> None:
    refuse_full_disk(tmp_path, 2**20)
    with pytest.raises(StorageError, match=r"need 1000000\.00 GB and \d+\.\d\d GB are free; free some space"):
        refuse_full_disk(tmp_path, 10**15)


def test_only_the_newest_are_kept_and_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".partial-step000050").mkdir()
    for step in (100, 200, 300):
        write_checkpoint(tmp_path, step, {"step": step}, [("a", (2,))], [torch.ones(2)], Keep())
    assert {path.name for path in tmp_path.iterdir()} == {"step000200", "step000300"}
    assert newest_valid(tmp_path) == (300, tmp_path / "step000300")


def test_the_best_and_one_in_so_many_are_kept_beside_the_last(tmp_path: Path) -> None:
    losses = {100: 3.0, 200: 2.0, 300: 1.0, 400: 1.5, 500: None, 600: 1.7, 700: 1.8}
    for step, loss in losses.items():
        state = {"step": step, "loss": loss}
        write_checkpoint(tmp_path, step, state, [("a", (2,))], [torch.ones(2)], Keep(last=1, every=200, best=1))
    assert sorted(checkpoints_in(tmp_path)) == [200, 300, 400, 600, 700]
