import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinygptv.artifacts import sha256_of
from tinygptv.errors import TrainingError
from tinygptv.train.checkpoint import HASHES, STATE, TENSORS, differences, newest_valid, write_tensors


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


def test_the_newest_is_found_by_its_number(tmp_path: Path) -> None:
    write(tmp_path, 9)
    assert newest_valid(tmp_path) == (9, tmp_path / "step000009")
    write(tmp_path, 10)
    assert newest_valid(tmp_path) == (10, tmp_path / "step000010")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: os.truncate(path / TENSORS, 3), f"{TENSORS} is not what was written"),
        (lambda path: flip_a_bit(path / TENSORS), f"{TENSORS} is not what was written"),
        (lambda path: flip_a_bit(path / STATE), f"{STATE} is not what was written"),
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


def test_it_is_said_when_none_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip_a_bit(write(tmp_path, 100) / TENSORS)
    assert newest_valid(tmp_path) is None
    assert "the stage begins at its beginning" in caplog.text


def test_one_that_was_still_being_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 100).rename(tmp_path / ".partial-step000100")
    (tmp_path / "latest").write_text("step000100")
    assert newest_valid(tmp_path) is None


def test_tensors_written_one_by_one_are_a_file_that_others_read(tmp_path: Path) -> None:
    tensors = {"matrix": torch.randn(3, 5), "half": torch.randn(4).bfloat16(), "scalar": torch.tensor(2.0)}
    names = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    assert write_tensors(tmp_path / "t.safetensors", names, iter(tensors.values())) == sha256_of(
        tmp_path / "t.safetensors"
    )
    found = load_file(tmp_path / "t.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(tensors, torch.float32)
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in tensors.items())


def test_what_is_no_number_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="b is no number any more"):
        write_tensors(tmp_path / "t", [("a", (2,)), ("b", (2,))], [torch.ones(2), torch.tensor([1.0, float("nan")])])


def test_a_full_disk_ends_the_writing(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        write_tensors(Path("/dev/full"), [("a", (2**20,))], [torch.ones(2**20)])
    assert raised.value.errno == errno.ENOSPC


def test_differences_are_named_field_by_field() -> None:
    before = {"stage": {"schedule": {"peak_lr": 0.003, "steps": 8}, "trains": ["a"]}, "seed": 1}
    after = {"stage": {"schedule": {"peak_lr": 0.001, "steps": 8}, "trains": ["a", "b"]}, "seed": 1, "lora": None}
    assert differences(before, after) == [
        "stage.schedule.peak_lr: 0.003 → 0.001",
        "stage.trains: ['a'] → ['a', 'b']",
    ]
    assert differences(before, before) == []
